//! AdamW (arXiv 1711.05101) by libtorch's fused kernel, one call a group.

use crate::error::Result;
use crate::ffi::{self, AdamWStep};
use std::ops::Range;
use tch::Tensor;

/// The settings that do not change during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

/// The moments of one flat buffer, in its layout.
#[derive(Debug)]
pub struct Moments {
    /// f32 `[n]`, the running mean of gradients.
    pub exp_avg: Tensor,
    /// f32 `[n]`, the running mean of their squares.
    pub exp_avg_sq: Tensor,
}

/// The optimizer's state over all stages.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    moments: Vec<Moments>,
    step: u64,
}

/// A contiguous part of a flat buffer: its gradients, and whether weight decay applies.
#[derive(Debug)]
pub struct Slice<'a> {
    pub weights: &'a Tensor,
    pub grads: &'a Tensor,
    pub range: Range<i64>,
    pub decay: bool,
}

impl AdamW {
    /// Zero moments for flat buffers like these.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new<'a>(config: AdamWConfig, buffers: impl IntoIterator<Item = &'a Tensor>) -> Result<Self> {
        let zeros = |w: &Tensor| Ok(Moments { exp_avg: w.f_zeros_like()?, exp_avg_sq: w.f_zeros_like()? });
        Ok(AdamW { config, moments: buffers.into_iter().map(zeros).collect::<Result<_>>()?, step: 0 })
    }

    /// The moments of a stage.
    pub fn moments(&self, stage: usize) -> &Moments {
        &self.moments[stage]
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Says how many steps the loaded moments have seen.
    pub fn set_steps(&mut self, step: u64) {
        self.step = step;
    }

    /// Starts the next step: counts it.
    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    /// Updates one slice of a stage for the step begun. Gradients are divided by `grad_scale` first.
    ///
    /// # Errors
    /// libtorch's.
    pub fn update(&self, stage: usize, slice: &Slice, learning_rate: f64, grad_scale: f64) -> Result<()> {
        let part = |t: &Tensor| t.detach().narrow(0, slice.range.start, slice.range.end - slice.range.start);
        let Moments { exp_avg, exp_avg_sq } = &self.moments[stage];
        let step = AdamWStep {
            learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            epsilon: self.config.epsilon,
            weight_decay: if slice.decay { self.config.weight_decay } else { 0.0 },
            step: self.step,
            grad_scale,
        };
        ffi::fused_adamw(&part(slice.weights), &part(slice.grads), &part(exp_avg), &part(exp_avg_sq), &step)
    }
}
