//! Normalization layers.

use crate::nn::{ComputeMode, Cost, Ctx, Init, ParamBuilder, ParamId};
use crate::ops::norm as op;
pub use crate::ops::norm::NormKind;
use tch::Tensor;

/// A normalization over the last dimension with a scale, and a shift if its kind has one.
#[derive(Debug, Clone)]
pub struct Norm {
    kind: NormKind,
    weight: ParamId,
    bias: Option<ParamId>,
    size: i64,
    eps: f64,
}

impl Norm {
    /// Declares `weight` (ones) and, for [`NormKind::Layer`], `bias` (zeros), `[size]` each.
    pub fn new(b: &mut ParamBuilder, name: &str, kind: NormKind, size: i64, eps: f64) -> Self {
        b.scope(name, |b| Norm {
            kind,
            weight: b.vector("weight", size, Init::Ones),
            bias: (kind == NormKind::Layer).then(|| b.vector("bias", size, Init::Zeros)),
            size,
            eps,
        })
    }

    /// Declares a layer norm.
    pub fn layer(b: &mut ParamBuilder, name: &str, size: i64, eps: f64) -> Self {
        Self::new(b, name, NormKind::Layer, size, eps)
    }

    /// Declares an RMS norm.
    pub fn rms(b: &mut ParamBuilder, name: &str, size: i64, eps: f64) -> Self {
        Self::new(b, name, NormKind::Rms, size, eps)
    }

    fn on<'a>(&self, ctx: &Ctx<'a>) -> op::Norm<'a> {
        let bias = self.bias.map(|bias| ctx.param(bias));
        op::Norm { kind: self.kind, weight: ctx.param(self.weight), bias, eps: self.eps }
    }

    /// `[.., size]` to the same shape.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        op::norm(x, self.on(ctx))
    }

    /// Returns `sum = residual + dropout(x)` and its norm, all `[T, size]`.
    pub fn residual(&self, ctx: &mut Ctx, x: Tensor, residual: &Tensor, dropout: f64) -> (Tensor, Tensor) {
        let drops = ctx.drops(dropout);
        op::residual_norm(x, residual, drops, self.on(ctx))
    }

    /// Returns the cost for this many rows; the input, if it is counted here, is kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64, keeps: bool) -> Cost {
        op::cost(how, self.kind, rows, self.size as f64, keeps)
    }

    /// Returns the cost of [`Norm::residual`] for this many rows; the sum is kept.
    pub fn residual_cost(&self, how: &ComputeMode, rows: f64, dropout: f64) -> Cost {
        op::residual_cost(how, self.kind, rows, self.size as f64, dropout)
    }

    /// Number of elements of a row.
    pub fn size(&self) -> i64 {
        self.size
    }
}
