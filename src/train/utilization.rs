//! Model FLOPs utilization (MFU; arXiv 2204.02311, appendix B): the FLOPs that the model needs for a second's tokens,
//! divided by the peak rate of all devices. Blocks that run again for activation checkpointing do not count twice.

use crate::comm::driver;
use crate::config::Precision;
use crate::data::Sampler;
use crate::data::extent::Extents;
use crate::nn::layout::Layout;
use crate::plan::device::{Device, Speed};
use crate::train::session::Session;
use crate::train::{memory_fit, settings};

/// Number of steps, spread over an epoch, whose tokens and FLOPs are counted.
const STEPS: u64 = 20;

/// The model's need and the devices' rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilization {
    flops_per_token: f64,
    /// FLOP/s of all ranks.
    peak: f64,
}

impl Utilization {
    /// Returns it for a run on GPUs whose peak rate is known; `None` for others and for CPUs. The GPUs of all ranks are
    /// taken to be like this rank's.
    pub fn of(session: &Session, sampler: &Sampler) -> Option<Self> {
        let tch::Device::Cuda(ordinal) = session.comm.device() else { return None };
        let driver = driver::query().ok().flatten()?;
        let device = Device::of_gpu(&driver.gpus.get(ordinal)?.name)?;
        let config = &session.config;
        let half = config.parallel.precision != Precision::Fp32;
        let rate = Speed::of(device, half, settings::tf32(config, session.comm.device()), 1.0).flops;
        let peak = rate * session.comm.world() as f64;
        Some(Utilization { flops_per_token: flops_per_token(session, sampler.clone())?, peak })
    }

    /// Returns the fraction of the peak rate that the model's FLOPs need at this number of tokens per second.
    pub fn mfu(&self, tokens_per_second: f64) -> f64 {
        self.flops_per_token * tokens_per_second / self.peak
    }
}

/// Returns the FLOPs of forward and backward per token of the training data.
fn flops_per_token(session: &Session, mut sampler: Sampler) -> Option<f64> {
    let (model, params) = (&session.loaded.model, &session.loaded.params);
    let layout = params.layout();
    let setup = memory_fit::setup(&session.config, (model, params.specs()), session.loaded.weights.zero(), false);
    let dataset = &session.data.train.dataset;
    let times: Vec<f64> = (0..model.blocks()).map(|block| times_forward(layout, block)).collect();
    let steps = sampler.steps_per_epoch();
    let (mut flops, mut tokens) = (0.0, 0.0);
    for index in 0..steps.min(STEPS) {
        let plan = sampler.plan(index * steps / steps.min(STEPS));
        tokens += plan.tokens as f64;
        for micro in plan.shards.iter().flatten() {
            let x = Extents::in_epoch(dataset, micro, plan.epoch);
            for (block, times) in times.iter().enumerate() {
                let cost = model.cost(block, &x, &setup.how());
                // Both factors of attention are activations.
                let of_attention = if *times > 1.0 { 3.0 } else { 1.0 };
                flops += times * (cost.flops - cost.attention_flops) + of_attention * cost.attention_flops;
            }
        }
    }
    (tokens > 0.0).then(|| flops / tokens)
}

/// Returns how often a block's linear layers cost what their forward costs: once in forward, in backward once for the
/// gradient of their input, and once for that of their weights, as far as these are trained.
fn times_forward(layout: &Layout, block: usize) -> f64 {
    if block < layout.first_trained_block() {
        return 1.0;
    }
    let units = || layout.of_block(block).map(|unit| &layout.units()[unit]);
    let count = |trained_only: bool| {
        units().filter(|unit| !trained_only || unit.is_trained()).map(|unit| unit.numel).sum::<i64>()
    };
    2.0 + count(true) as f64 / count(false).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_the_rate_over_the_peak() {
        let of = Utilization { flops_per_token: 6e9, peak: 8.0 * 1e15 };
        assert!((of.mfu(5e5) - 0.375).abs() < 1e-12);
    }
}
