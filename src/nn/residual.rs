//! What stands at the end of both halves of a post-norm block.

use crate::nn::linear::Linear;
use crate::nn::norm::LayerNorm;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// `norm(x + dropout(linear(y)))`, y what a part has made of x (arXiv 1706.03762, section 3.1).
#[derive(Debug)]
pub struct ResidualNorm {
    linear: Linear,
    norm: LayerNorm,
}

impl ResidualNorm {
    /// Declares `norm` behind a linear layer of so many outputs.
    pub fn new(b: &mut ParamBuilder, linear: Linear, hidden: i64, eps: f64) -> Self {
        ResidualNorm { linear, norm: LayerNorm::new(b, "norm", hidden, eps) }
    }

    /// y `[T, width]` and x `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, y: &Tensor, x: &Tensor, dropout: f64) -> Tensor {
        let y = self.linear.forward(ctx, y);
        let y = ctx.dropout(y, dropout);
        self.norm.forward(ctx, &(y + x))
    }
}
