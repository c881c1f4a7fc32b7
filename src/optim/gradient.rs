//! The gradient that an optimizer sees: unscaled, clipped, with penalties.

use crate::error::Result;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Number of elements that are updated at a time: temporary tensors are of this size.
pub const PIECE: i64 = 1 << 22;

/// A range of a unit with the same hyper-parameters in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Elements of the unit.
    pub range: Range<i64>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// Factor of the sign of the weights that is added to their gradient.
    pub l1: f64,
    /// Factor of the weights that is added to their gradient.
    pub l2: f64,
    /// Number of optimizer steps before the state of this range was initialized.
    pub began: u64,
}

impl Part {
    /// Returns the gradient `[n]` in f32, divided by `scale`, with the penalties of `weights` `[n]`. Penalties are added
    /// after clipping, as torch's optimizers add their weight decay.
    pub fn gradient(&self, weights: &Tensor, grads: &Tensor, scale: f64) -> Result<Tensor> {
        let grads = grads.f_to_kind(Kind::Float)?;
        let mut result = if scale == 1.0 { grads } else { grads.f_div_scalar(scale)? };
        if self.l2 != 0.0 {
            result = result.f_add(&weights.f_mul_scalar(self.l2)?)?;
        }
        if self.l1 != 0.0 {
            result = result.f_add(&weights.f_sign()?.f_mul_scalar_(self.l1)?)?;
        }
        Ok(result)
    }

    pub fn has_penalty(&self) -> bool {
        self.l1 != 0.0 || self.l2 != 0.0
    }
}

/// Returns the elements that are in both ranges.
pub fn overlap(a: &Range<i64>, b: &Range<i64>) -> Range<i64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Returns the elements `range` of a unit from a buffer that starts at element `first`, sharing memory.
pub fn narrow(buffer: &Tensor, range: &Range<i64>, first: i64) -> Tensor {
    buffer.detach().narrow(0, range.start - first, range.end - range.start)
}
