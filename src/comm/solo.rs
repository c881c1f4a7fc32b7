//! One rank alone: every collective is done as soon as it starts.

use super::job::{Action, Job};
use super::{Collective, Op, Pending, ffi};
use crate::error::Result;
use std::time::Duration;
use tch::{Device, Tensor};

/// A group of one rank that computes on one device.
pub struct Solo {
    device: Device,
}

impl Solo {
    /// The only rank, computing on `device`.
    pub fn new(device: Device) -> Self {
        Solo { device }
    }

    fn check(action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Job> {
        Job::new(action, buffer, shard, what, (0, 1), buffer.device())
    }
}

impl Collective for Solo {
    fn name(&self) -> &'static str {
        "solo"
    }

    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn local_world(&self) -> usize {
        1
    }

    fn device(&self) -> Device {
        self.device
    }

    fn start_all_reduce(&self, buffer: &Tensor, op: Op, what: &str) -> Result<Pending> {
        Self::check(Action::AllReduce(op), buffer, None, what).map(|_| Pending::done())
    }

    fn start_reduce_scatter(&self, buffer: &Tensor, shard: &Tensor, what: &str) -> Result<Pending> {
        let job = Self::check(Action::ReduceScatter, buffer, Some(shard), what)?;
        if let Some(mut shard) = job.shard.as_ref().filter(|_| !job.in_place(0)).map(|shard| shard.view([-1])) {
            shard.copy_(&job.buffer.view([-1]));
        }
        Ok(Pending::done())
    }

    fn start_all_gather(&self, shard: &Tensor, buffer: &Tensor, what: &str) -> Result<Pending> {
        let job = Self::check(Action::AllGather, buffer, Some(shard), what)?;
        if let Some(shard) = job.shard.as_ref().filter(|_| !job.in_place(0)) {
            job.buffer.view([-1]).copy_(&shard.view([-1]));
        }
        Ok(Pending::done())
    }

    fn start_broadcast(&self, buffer: &Tensor, root: usize, what: &str) -> Result<Pending> {
        Self::check(Action::Broadcast { root }, buffer, None, what).map(|_| Pending::done())
    }

    fn roll_call(&self, status: i64, _patience: Duration) -> Vec<Option<i64>> {
        vec![Some(status)]
    }

    fn abort(&self, code: i32) -> ! {
        ffi::process::exit_now(code)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::conformance;

    #[test]
    fn conforms() {
        conformance::run(&Solo::new(Device::Cpu));
    }
}
