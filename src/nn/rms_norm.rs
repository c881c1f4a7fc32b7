//! Root mean square normalisation.

use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use tch::{Kind, Tensor};

/// `y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: ParamId,
    eps: f64,
}

impl RmsNorm {
    /// Declares `weight` (ones) `[size]`.
    pub fn new(b: &mut ParamBuilder, name: &str, size: i64, eps: f64) -> Self {
        b.scope(name, |b| RmsNorm { weight: b.vector("weight", size, Init::Ones), eps })
    }

    /// `[.., size]` to the same shape. Halves are computed in fp32 and rounded once, forward and backward.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        let (kind, weight) = (x.kind(), ctx.param(self.weight).to_kind(Kind::Float));
        let x = x.to_kind(Kind::Float);
        let mean = x.square().mean_dim([-1_i64].as_slice(), true, Kind::Float);
        (x * (mean + self.eps).rsqrt() * weight).to_kind(kind)
    }
}
