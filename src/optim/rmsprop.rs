//! RMSprop (Tieleman and Hinton, 2012), as `torch.optim.RMSprop`.

use crate::error::Result;
use tch::Tensor;

/// Names of the states: averages of squared gradients and, if centered, of gradients; with momentum its buffer.
pub const SQUARE_AVG: &str = "square_avg";
pub const GRAD_AVG: &str = "grad_avg";
pub const MOMENTUM: &str = "momentum_buffer";

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsPropConfig {
    pub alpha: f64,
    pub epsilon: f64,
    pub momentum: f64,
    /// Whether gradients are divided by an estimate of their standard deviation.
    pub centered: bool,
}

impl RmsPropConfig {
    /// Returns the names of the states, in the order of [`update`].
    pub fn states(&self) -> Vec<&'static str> {
        let centered = self.centered.then_some(GRAD_AVG);
        let momentum = (self.momentum > 0.0).then_some(MOMENTUM);
        [Some(SQUARE_AVG), centered, momentum].into_iter().flatten().collect()
    }
}

/// Updates f32 weights `[n]` and the states `[n]` by gradients `[n]`.
pub fn update(
    config: &RmsPropConfig,
    weights: &mut Tensor,
    grads: &Tensor,
    states: &mut [Tensor],
    learning_rate: f64,
) -> Result<()> {
    let Some((square_avg, rest)) = states.split_first_mut() else { return Ok(()) };
    let added = grads.f_mul_scalar(1.0 - config.alpha)?;
    _ = square_avg.f_mul_scalar_(config.alpha)?.f_addcmul_(grads, &added)?;
    let (average, buffer) = match (config.centered, rest) {
        (true, [grad_avg, buffer @ ..]) => {
            _ = grad_avg.f_lerp_(grads, 1.0 - config.alpha)?;
            (square_avg.f_sub(&grad_avg.f_square()?)?.f_sqrt_()?, buffer)
        }
        (_, buffer) => (square_avg.f_sqrt()?, buffer),
    };
    let mut average = average;
    let mut step = grads.f_div(&average.f_add_scalar_(config.epsilon)?)?;
    let step = match buffer.first_mut() {
        Some(buffer) => buffer.f_mul_scalar_(config.momentum)?.f_add_(&step)?.f_mul_scalar(learning_rate)?,
        None => step.f_mul_scalar_(learning_rate)?,
    };
    _ = weights.f_sub_(&step)?;
    Ok(())
}
