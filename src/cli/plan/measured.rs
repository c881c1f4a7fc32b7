//! Measures real steps and corrects the plan by them.

use super::report::{Correction, Report};
use crate::comm::{Collective, Op};
use crate::config::ZeroStage;
use crate::error::{Error, Result};
use crate::nn::Layout;
use crate::plan::device::Device;
use crate::plan::fit;
use crate::train::measure;
use std::sync::Arc;

impl Report {
    /// Runs real steps and collectives, and corrects the estimated times by them. All ranks call it.
    pub(super) fn measure(&mut self, comm: &Arc<dyn Collective>) -> Result<()> {
        let (world, planned) = (comm.world(), &self.planned);
        let mut sampler = planned.sampler(world)?;
        let (step, need) = planned.busiest(world, self.zero, self.cpu)?;
        let mut config = planned.on(world);
        config.parallel.zero_stage = ZeroStage::Stage(self.zero.stage());
        let timed = if world > 1 { measure::collectives(comm.as_ref())? } else { Vec::new() };
        let taken = measure::steps(&config, comm, &sampler, step)?;
        if world > 1 {
            let mut on_machine = [comm.local_world() as f64];
            comm.all_reduce_f64(&mut on_machine, Op::Max, "ranks on a machine")?;
            self.network.ranks_per_node = match on_machine[0] as usize {
                all if all == world => self.network.ranks_per_node.max(world),
                some => some,
            };
            self.network = fit::network(&timed, world, &self.network);
        }
        let layout = Layout::new(&self.planned.shaped.specs, self.planned.shards(&self.planned.config, world));
        let plan = sampler.plan(step);
        let planned =
            self.with_run(&self.planned.config, self.zero, |run| run.step(&layout, &plan, self.speed, &self.network).0);
        // Collectives are measured separately: the rest of the difference is due to computation.
        let own = (taken.seconds - planned.exposed_communication).max(taken.seconds / 10.0);
        self.speed = self.speed.slower(own / (planned.seconds - planned.exposed_communication));
        self.device += ", as measured";
        self.measured = Some(Correction { world, step: step + 1, taken, planned, need, timed });
        self.rows = self.rows()?;
        Ok(())
    }
}

/// Refuses to measure on another kind of device than `--device`.
pub(super) fn check_measured(name: &str, device: Option<&Device>, here: tch::Device) -> Result<()> {
    match (device.is_some(), here != tch::Device::Cpu) {
        (false, true) => Err(Error::input(
            "--measure: ranks compute on a GPU here, but --device is cpu: name the GPU with --device, or hide it with \
             CUDA_VISIBLE_DEVICES= to measure the CPU",
        )),
        (true, false) => Err(Error::input(format!(
            "--measure: ranks compute on the CPU here, but --device is {name}: measure on such GPUs, or remove --device or \
             --measure"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_measured_device_is_the_planned_one() {
        let (gpu, h100) = (tch::Device::Cuda(0), Device::named("h100-sxm"));
        assert!(check_measured("cpu", None, tch::Device::Cpu).is_ok() && check_measured("h100-sxm", h100, gpu).is_ok());
        let told = check_measured("cpu", None, gpu).unwrap_err();
        assert!(told.kind() == Kind::Input && told.to_string().contains("name the GPU with --device"), "{told}");
        let told = check_measured("h100-sxm", h100, tch::Device::Cpu).unwrap_err();
        assert!(told.kind() == Kind::Input && told.to_string().contains("compute on the CPU here"), "{told}");
    }
}
