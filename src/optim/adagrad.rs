//! Adagrad (Duchi et al., JMLR 12, 2011), as `torch.optim.Adagrad`.

use crate::error::Result;
use crate::optim::adamw::Step;
use tch::Tensor;

/// The state's name: the sum of squared gradients.
pub const SUM: &str = "sum";

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdagradConfig {
    /// Factor of the step number in the learning rate's divisor.
    pub lr_decay: f64,
    pub epsilon: f64,
}

/// Updates f32 weights `[n]` and the sum `[n]` by gradients `[n]`.
pub fn update(
    config: &AdagradConfig,
    weights: &mut Tensor,
    grads: &Tensor,
    sum: &mut Tensor,
    step: &Step,
) -> Result<()> {
    let learning_rate = step.learning_rate / (1.0 + (step.number - 1) as f64 * config.lr_decay);
    _ = sum.f_addcmul_(grads, grads)?;
    let std = sum.f_sqrt()?.f_add_scalar_(config.epsilon)?;
    _ = weights.f_sub_(&grads.f_div(&std)?.f_mul_scalar_(learning_rate)?)?;
    Ok(())
}
