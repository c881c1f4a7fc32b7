//! Measures real steps and corrects the plan by them.

use super::Report;
use crate::comm::{Collective, Op};
use crate::config::ZeroStage;
use crate::error::{Error, Result};
use crate::nn::Layout;
use crate::plan::device::Device;
use crate::plan::fit::{self, Timed};
use crate::plan::memory::MemoryEstimate;
use crate::plan::timeline::Step;
use crate::train::measure::{self, Measured};
use std::sync::Arc;

/// Measured steps and their estimates.
pub(super) struct Correction {
    pub world: usize,
    /// Step number, from 1.
    pub step: u64,
    pub taken: Measured,
    pub planned: Step,
    pub need: MemoryEstimate,
    /// Timed collectives; empty on one rank.
    pub timed: Vec<Timed>,
}

impl Report {
    /// Runs real steps, times collectives, and corrects the estimates. All ranks must call it.
    pub(super) fn measure(&mut self, comm: &Arc<dyn Collective>) -> Result<()> {
        let (world, outlook) = (comm.world(), &self.outlook);
        let mut sampler = outlook.sampler(world)?;
        let (step, need) = outlook.busiest(world, self.zero, self.cpu)?;
        let mut config = outlook.on(world);
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
        let layout = Layout::new(&self.outlook.shaped.specs, world);
        let plan = sampler.plan(step);
        let planned =
            self.with_run(&self.outlook.config, self.zero, |run| run.step(&layout, &plan, self.speed, &self.network).0);
        // Collectives are measured separately: the rest of the difference is due to computation.
        let own = (taken.seconds - planned.exposed_communication).max(taken.seconds / 10.0);
        self.speed = self.speed.slower(own / (planned.seconds - planned.exposed_communication));
        self.device += ", as measured";
        self.measured = Some(Correction { world, step: step + 1, taken, planned, need, timed });
        self.rows = self.rows()?;
        Ok(())
    }
}

/// Rejects a plan for another kind of device than the measured one.
pub(super) fn check_measured(name: &str, device: Option<&Device>, here: tch::Device) -> Result<()> {
    match (device.is_some(), here != tch::Device::Cpu) {
        (false, true) => Err(Error::input(
            "--measure: ranks run on a GPU here, but --device is cpu: set --device to this GPU, or hide it with \
             CUDA_VISIBLE_DEVICES= to measure the CPU",
        )),
        (true, false) => Err(Error::input(format!(
            "--measure: ranks run on the CPU here, but --device is {name}: measure on a machine with this GPU, or remove \
             --device or --measure"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_measured_device_must_be_the_planned_one() {
        let (gpu, h100) = (tch::Device::Cuda(0), Device::named("h100-sxm"));
        assert!(check_measured("cpu", None, tch::Device::Cpu).is_ok() && check_measured("h100-sxm", h100, gpu).is_ok());
        let error = check_measured("cpu", None, gpu).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("set --device to this GPU"), "{error}");
        let error = check_measured("h100-sxm", h100, tch::Device::Cpu).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("run on the CPU here"), "{error}");
    }
}
