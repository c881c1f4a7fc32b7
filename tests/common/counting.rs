//! A backend that counts the bytes of its collectives, by group.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tch::{Device, Tensor};
use trainer::comm::{Action, Collective, Pending};
use trainer::error::Result;

/// Bytes by group (the path of splits: `all`, `all/0`, `all/1`), name of the action, and first word of what it is for.
pub type Counts = BTreeMap<(String, &'static str, String), u64>;

/// Counts what `below` does.
pub struct Counting {
    below: Arc<dyn Collective>,
    group: String,
    splits: Mutex<usize>,
    counts: Arc<Mutex<Counts>>,
}

impl Counting {
    pub fn around(below: Arc<dyn Collective>) -> (Arc<dyn Collective>, Arc<Mutex<Counts>>) {
        let counts = Arc::new(Mutex::new(Counts::new()));
        let group = "all".to_owned();
        (Arc::new(Counting { below, group, splits: Mutex::default(), counts: Arc::clone(&counts) }), counts)
    }
}

impl Collective for Counting {
    fn name(&self) -> &'static str {
        self.below.name()
    }
    fn rank(&self) -> usize {
        self.below.rank()
    }
    fn world(&self) -> usize {
        self.below.world()
    }
    fn local_rank(&self) -> usize {
        self.below.local_rank()
    }
    fn local_world(&self) -> usize {
        self.below.local_world()
    }
    fn host_leader(&self) -> usize {
        self.below.host_leader()
    }
    fn device(&self) -> Device {
        self.below.device()
    }
    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        let bytes = (buffer.numel() * buffer.kind().elt_size_in_bytes()) as u64;
        let word = what.split(' ').next().unwrap_or_default().to_owned();
        *self.counts.lock().unwrap().entry((self.group.clone(), action.name(), word)).or_default() += bytes;
        self.below.start(action, buffer, shard, what)
    }
    fn roll_call(&self, status: i64, time_limit: Duration) -> Vec<Option<i64>> {
        self.below.roll_call(status, time_limit)
    }
    fn abort(&self, code: i32) -> ! {
        self.below.abort(code)
    }
    fn finish(&self) -> Result<()> {
        self.below.finish()
    }
    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Collective>> {
        let mut splits = self.splits.lock().unwrap();
        let group = format!("{}/{splits}", self.group);
        *splits += 1;
        let (below, counts) = (self.below.split(color, key)?, Arc::clone(&self.counts));
        Ok(Arc::new(Counting { below, group, splits: Mutex::default(), counts }))
    }
}
