//! Residual connection and norm of a post-norm block.

use crate::nn::norm::Norm;
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use tch::Tensor;

/// `norm(x + dropout(y))`, y the output of a layer with input x (arXiv 1706.03762, section 3.1).
#[derive(Debug)]
pub struct ResidualNorm {
    norm: Norm,
    dropout: f64,
}

impl ResidualNorm {
    /// Declares `name`, a layer norm of this size.
    pub fn new(b: &mut ParamBuilder, name: &str, size: i64, eps: f64, dropout: f64) -> Self {
        ResidualNorm { norm: Norm::layer(b, name, size, eps), dropout }
    }

    /// Returns the cost for this many rows; the sum is kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        self.norm.residual_cost(how, rows, self.dropout)
    }

    /// y and x, `[T, size]`, to the same shape.
    pub fn forward(&self, ctx: &mut Ctx, y: Tensor, x: &Tensor) -> Tensor {
        self.norm.residual(ctx, y, x, self.dropout).1
    }
}
