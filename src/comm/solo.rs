//! A single rank: every collective is complete as soon as it starts.

use super::job::{Action, Job, Place};
use super::{Collective, Pending, ffi};
use crate::error::Result;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Tensor};

/// A group of one rank on one device.
pub struct Solo {
    device: Device,
    place: Place,
    /// The launcher's MPI handle, which must be finished at the end.
    launcher: Option<Arc<dyn Collective>>,
}

impl Solo {
    /// Creates a single rank on `device`.
    pub fn new(device: Device) -> Self {
        Solo { device, place: Place::ALONE, launcher: None }
    }

    /// The same for the only rank under a launcher.
    pub fn launched(device: Device, launcher: Arc<dyn Collective>) -> Self {
        Solo { device, place: Place::ALONE, launcher: Some(launcher) }
    }

    /// Stands in for one of several ranks in dry runs that only test memory: collectives do not change their buffers.
    pub fn dry_run(comm: &dyn Collective) -> Self {
        let (local_rank, local_world) = (comm.local_rank(), comm.local_world());
        let place = Place { rank: comm.rank(), world: comm.world(), local_rank, local_world };
        Solo { device: comm.device(), place, launcher: None }
    }
}

impl Collective for Solo {
    fn name(&self) -> &'static str {
        "solo"
    }

    fn rank(&self) -> usize {
        self.place.rank
    }

    fn world(&self) -> usize {
        self.place.world
    }

    fn local_rank(&self) -> usize {
        self.place.local_rank
    }

    fn local_world(&self) -> usize {
        self.place.local_world
    }

    fn host_leader(&self) -> usize {
        0
    }

    fn device(&self) -> Device {
        self.device
    }

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        if self.place.world > 1 {
            return Ok(Pending::done());
        }
        let job = Job::new(action, buffer, shard, what, Place::ALONE, buffer.device())?;
        if let Some(shard) = job.shard.as_ref().filter(|_| !job.in_place(0)) {
            // The only shard is the whole buffer.
            let (mut shard, mut buffer) = (shard.view([-1]), job.buffer.view([-1]));
            match action {
                Action::ReduceScatter => shard.copy_(&buffer),
                _ => buffer.copy_(&shard),
            }
        }
        Ok(Pending::done())
    }

    fn roll_call(&self, status: i64, _patience: Duration) -> Vec<Option<i64>> {
        vec![Some(status)]
    }

    fn abort(&self, code: i32) -> ! {
        match &self.launcher {
            Some(launcher) => launcher.abort(code),
            None => ffi::process::exit_now(code),
        }
    }

    fn finish(&self) -> Result<()> {
        self.launcher.as_ref().map_or(Ok(()), |launcher| launcher.finish())
    }

    fn split(&self, _color: usize, _key: usize) -> Result<Arc<dyn Collective>> {
        Ok(Arc::new(Solo::new(self.device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Op, conformance, threads};

    #[test]
    fn conforms() {
        conformance::run(&Solo::new(Device::Cpu));
        let launcher = Arc::new(Solo::new(Device::Cpu));
        conformance::run(&Solo::launched(Device::Cpu, launcher));
        conformance::split(&Solo::new(Device::Cpu));
    }

    #[test]
    fn a_dry_run_stands_in_for_a_rank_and_changes_nothing() {
        let ranks = threads::group(3, Duration::from_secs(20));
        let solo = Solo::dry_run(ranks[2].as_ref());
        assert_eq!((solo.rank(), solo.world(), solo.device()), (2, 3, Device::Cpu));
        let (buffer, shard) = (Tensor::from_slice(&[1f32, 2.0, 3.0]), Tensor::from_slice(&[4f32]));
        let comm: &dyn Collective = &solo;
        comm.start_all_gather(&shard, &buffer, "a test").unwrap().wait().unwrap();
        comm.start_all_reduce(&buffer, Op::Sum, "a test").unwrap().wait().unwrap();
        assert!(buffer.equal(&Tensor::from_slice(&[1f32, 2.0, 3.0])));
    }
}
