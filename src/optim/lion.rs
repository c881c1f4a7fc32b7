//! Lion (arXiv 2302.06675, algorithm 2): the sign of an interpolated momentum.

use crate::error::Result;
use crate::optim::adamw::Step;
use tch::Tensor;

/// The state's name: the exponential moving average of gradients.
pub const EXP_AVG: &str = "exp_avg";

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LionConfig {
    pub beta1: f64,
    pub beta2: f64,
}

/// Updates f32 weights `[n]` and the average `[n]` by gradients `[n]`.
pub fn update(
    config: &LionConfig,
    weights: &mut Tensor,
    grads: &Tensor,
    average: &mut Tensor,
    step: &Step,
) -> Result<()> {
    if step.weight_decay != 0.0 {
        _ = weights.f_mul_scalar_(1.0 - step.learning_rate * step.weight_decay)?;
    }
    let sign = average.f_lerp(grads, 1.0 - config.beta1)?.f_sign_()?;
    _ = weights.f_sub_(&(sign * step.learning_rate))?;
    _ = average.f_lerp_(grads, 1.0 - config.beta2)?;
    Ok(())
}
