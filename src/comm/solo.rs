//! One rank alone: every collective is done as soon as it starts.

use super::job::{Action, Job};
use super::{Collective, Pending, ffi};
use crate::error::Result;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Tensor};

/// A group of one rank that computes on one device.
pub struct Solo {
    device: Device,
    /// The launcher's end, which wants to hear of the rank's.
    launcher: Option<Arc<dyn Collective>>,
}

impl Solo {
    /// The only rank, computing on `device`.
    pub fn new(device: Device) -> Self {
        Solo { device, launcher: None }
    }

    /// The same as the only rank of a launcher's.
    pub fn launched(device: Device, launcher: Arc<dyn Collective>) -> Self {
        Solo { device, launcher: Some(launcher) }
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

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        let job = Job::new(action, buffer, shard, what, (0, 1), buffer.device())?;
        if let Some(shard) = job.shard.as_ref().filter(|_| !job.in_place(0)) {
            // The one shard is the whole.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::conformance;

    #[test]
    fn conforms() {
        conformance::run(&Solo::new(Device::Cpu));
        let launcher = Arc::new(Solo::new(Device::Cpu));
        conformance::run(&Solo::launched(Device::Cpu, launcher));
    }
}
