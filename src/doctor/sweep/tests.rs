use super::*;
use crate::comm::{Pending, threads};
use std::sync::Arc;
use std::time::Duration;

/// Brings one wrong element to one rank, in one kind of collective: the right one and `off`.
struct Defective {
    below: Arc<dyn Collective>,
    action: Action,
    rank: usize,
    element: i64,
    off: f64,
}

impl Collective for Defective {
    fn name(&self) -> &'static str {
        "defective"
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
        Device::Cpu
    }
    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        let pending = self.below.start(action, buffer, shard, what)?;
        let hit = action == self.action && self.rank() == self.rank && what.starts_with("the sweep");
        let target = if action == Action::ReduceScatter { shard.unwrap_or(buffer) } else { buffer };
        let target = target.shallow_clone();
        let (element, off) = (self.element, self.off);
        Ok(Pending::new(move || {
            pending.wait()?;
            if hit && element < target.size()[0] {
                _ = target.get(element).f_add_scalar_(off)?;
            }
            Ok(())
        }))
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
        self.below.split(color, key)
    }
}

/// Sweeps on `world` threads; what rank 0 knows then.
fn swept(world: usize, wrap: impl Fn(Arc<dyn Collective>) -> Arc<dyn Collective> + Sync) -> Sweep {
    let group = threads::group(world, Duration::from_secs(60));
    let mut all: Vec<Sweep> = std::thread::scope(|scope| {
        let each = |comm: Arc<dyn Collective>| {
            let wrap = &wrap;
            scope.spawn(move || {
                let mut sweep = Sweep::default();
                run(&*wrap(comm), &mut sweep, |_| {}).unwrap();
                sweep
            })
        };
        let threads: Vec<_> = group.into_iter().map(each).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|sweep| *sweep == all[0]), "all ranks know the same");
    all.remove(0)
}

#[test]
fn sound_collectives_pass() {
    let sweep = swept(3, |comm| comm);
    assert_eq!(sweep.wrong, None);
    assert_eq!(sweep.rows.len(), SIZES.len() * Action::OF_A_STEP.len());
    for row in &sweep.rows {
        let times = if row.collective == "all-reduce" { 4.0 / 3.0 } else { 2.0 / 3.0 };
        assert!(row.bytes % (3 * 4) == 0 && row.seconds > 0.0, "{row:?}");
        assert!((row.algorithm_bandwidth - row.bytes as f64 / row.seconds).abs() <= 1e-6 * row.algorithm_bandwidth);
        assert!(
            (row.bus_bandwidth - times * row.algorithm_bandwidth).abs() <= 1e-6 * row.algorithm_bandwidth,
            "{row:?}"
        );
    }
}

#[test]
fn a_wrong_value_is_named_with_rank_and_element() {
    // A number that is none is wrong as well, and must arrive at rank 0.
    for (action, off) in Action::OF_A_STEP.into_iter().zip([1.0, f64::NAN, f64::INFINITY]) {
        let sweep = swept(2, |below| Arc::new(Defective { below, action, rank: 1, element: 70, off }));
        let wrong = sweep.wrong.expect("it was wrong");
        assert_eq!(
            (wrong.collective.as_str(), wrong.rank, wrong.element, wrong.bytes),
            (action.name(), 1, 70, 1024),
            "{wrong:?}"
        );
        assert_eq!(wrong.found, (wrong.expected + off).to_string(), "{wrong:?}");
    }
}
