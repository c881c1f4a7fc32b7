//! Residual connection and norm of a post-norm block.

use crate::nn::cost::{ComputeMode, Cost};
use crate::nn::norm::LayerNorm;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// `norm(x + dropout(y))`, y the output of a layer with input x (arXiv 1706.03762, section 3.1).
#[derive(Debug)]
pub struct ResidualNorm {
    norm: LayerNorm,
    dropout: f64,
    size: i64,
}

impl ResidualNorm {
    /// Declares `name`, a norm of this size.
    pub fn new(b: &mut ParamBuilder, name: &str, size: i64, eps: f64, dropout: f64) -> Self {
        ResidualNorm { norm: LayerNorm::new(b, name, size, eps), dropout, size }
    }

    /// Returns the cost for this many rows; the sum is kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        Cost::dropout(how, rows * self.size as f64, self.dropout).then(self.norm.cost(how, rows, true))
    }

    /// y and x, `[T, size]`, to the same shape.
    pub fn forward(&self, ctx: &mut Ctx, y: Tensor, x: &Tensor) -> Tensor {
        let y = ctx.dropout(y, self.dropout);
        self.norm.forward(ctx, &(y + x))
    }
}
