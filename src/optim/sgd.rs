//! Stochastic gradient descent with momentum, as `torch.optim.SGD` without dampening.

use crate::error::Result;
use tch::Tensor;

/// The state's name, if there is momentum: the decayed sum of gradients.
pub const MOMENTUM: &str = "momentum_buffer";

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    pub momentum: f64,
    pub nesterov: bool,
}

/// Updates f32 weights `[n]` by gradients `[n]`; with momentum its buffer `[n]` too.
pub fn update(
    config: &SgdConfig,
    weights: &mut Tensor,
    grads: &Tensor,
    buffer: Option<&mut Tensor>,
    learning_rate: f64,
) -> Result<()> {
    let step = match buffer {
        None => grads.f_mul_scalar(learning_rate)?,
        Some(buffer) => {
            _ = buffer.f_mul_scalar_(config.momentum)?.f_add_(grads)?;
            match config.nesterov {
                true => grads.f_add(&buffer.f_mul_scalar(config.momentum)?)?.f_mul_scalar_(learning_rate)?,
                false => buffer.f_mul_scalar(learning_rate)?,
            }
        }
    };
    _ = weights.f_sub_(&step)?;
    Ok(())
}
