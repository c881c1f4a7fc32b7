//! AdamW (arXiv 1711.05101) with libtorch's fused kernel.

use crate::error::Result;
use crate::ffi::{self, AdamWStep};
use tch::Tensor;

/// Names of the states: exponential moving averages of gradients and of squared gradients.
pub const STATES: [&str; 2] = ["exp_avg", "exp_avg_sq"];

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
}

/// The hyper-parameters of one update, which may differ between parts of a unit.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub learning_rate: f64,
    /// Decoupled weight decay: weights are multiplied by 1 minus its product with the learning rate.
    pub weight_decay: f64,
    /// Number of this update since the state was initialized, from 1.
    pub number: u64,
}

/// Updates f32 weights `[n]` and their moments by gradients `[n]` divided by `grad_scale`.
pub fn update(
    config: &AdamConfig,
    weights: &Tensor,
    grads: &Tensor,
    [exp_avg, exp_avg_sq]: [&Tensor; 2],
    step: &Step,
    grad_scale: f64,
) -> Result<()> {
    let step = AdamWStep {
        learning_rate: step.learning_rate,
        beta1: config.beta1,
        beta2: config.beta2,
        epsilon: config.epsilon,
        weight_decay: step.weight_decay,
        step: step.number,
        grad_scale,
    };
    ffi::fused_adamw(weights, grads, exp_avg, exp_avg_sq, &step)
}
