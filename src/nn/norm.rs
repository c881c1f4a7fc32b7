//! Normalization layers.

use crate::ffi;
use crate::nn::cost::{ComputeMode, Cost};
use crate::nn::{Ctx, Init, ParamBuilder, ParamId, precision};
use tch::{Kind, Tensor};

/// Layer normalization (arXiv 1607.06450) over the last dimension, with scale and shift.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: ParamId,
    bias: ParamId,
    size: i64,
    eps: f64,
}

impl LayerNorm {
    /// Declares `weight` (ones) and `bias` (zeros), `[size]` each.
    /// Declares the parameters of its kind.
    pub fn new(b: &mut ParamBuilder, name: &str, size: i64, eps: f64) -> Self {
        b.scope(name, |b| LayerNorm {
            weight: b.vector("weight", size, Init::Ones),
            bias: b.vector("bias", size, Init::Zeros),
            size,
            eps,
        })
    }

    /// `[.., size]` to the same shape.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        let (weight, bias) = (ctx.param(self.weight), ctx.param(self.bias));
        if precision::on_cpu(x) {
            return ffi::layers::half_layer_norm(x, weight, bias, self.eps)
                .unwrap_or_else(|e| panic!("layer norm of {:?}: {e}", x.size()));
        }
        x.layer_norm([self.size], Some(weight), Some(bias), self.eps, false)
    }
}

impl LayerNorm {
    /// Returns the cost for this many rows; the input, if it is counted here, and two numbers per row are kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64, keeps: bool) -> Cost {
        let (e, numbers) = (how.element(), rows * self.size as f64);
        let kept = 8.0 * rows + if keeps { e * numbers } else { 0.0 };
        let wide = how.wide(numbers);
        Cost::op(kept, e * numbers, e * numbers, [2.0 * wide, 3.0 * wide])
    }
}

/// RMS normalization (arXiv 1910.07467) over the last dimension, with scale.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: ParamId,
    size: i64,
    eps: f64,
}

impl RmsNorm {
    /// Declares `weight` (ones), `[size]`.
    pub fn new(b: &mut ParamBuilder, name: &str, size: i64, eps: f64) -> Self {
        b.scope(name, |b| RmsNorm { weight: b.vector("weight", size, Init::Ones), size, eps })
    }

    /// `[.., size]` to the same shape. Half types are normalized in fp32 and rounded before scaling, as in Llama.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let mean = wide.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
        let divided = &wide * (mean + self.eps).rsqrt();
        divided.to_kind(x.kind()) * ctx.param(self.weight)
    }
}

impl RmsNorm {
    /// Number of elements of a row.
    pub fn size(&self) -> i64 {
        self.size
    }

    /// Returns the cost for this many rows; the input in fp32, if it is counted here or is a copy, the normalized
    /// values, and two numbers per row are kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64, keeps: bool) -> Cost {
        let (e, numbers) = (how.element(), rows * self.size as f64);
        let input = if keeps || e < 4.0 { 4.0 * numbers } else { 0.0 };
        let wide = 4.0 * numbers;
        Cost::op(8.0 * rows + input + e * numbers, e * numbers, e * numbers, [wide, 2.0 * wide])
    }
}

/// The kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    Layer,
    Rms,
}

/// A normalization of either kind.
#[derive(Debug, Clone)]
pub enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    pub fn new(b: &mut ParamBuilder, name: &str, kind: NormKind, size: i64, eps: f64) -> Self {
        match kind {
            NormKind::Layer => Norm::Layer(LayerNorm::new(b, name, size, eps)),
            NormKind::Rms => Norm::Rms(RmsNorm::new(b, name, size, eps)),
        }
    }

    /// As [`LayerNorm::cost`], [`RmsNorm::cost`].
    pub fn cost(&self, how: &ComputeMode, rows: f64, keeps: bool) -> Cost {
        match self {
            Norm::Layer(norm) => norm.cost(how, rows, keeps),
            Norm::Rms(norm) => norm.cost(how, rows, keeps),
        }
    }

    /// `[.., size]` to the same shape.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        match self {
            Norm::Layer(norm) => norm.forward(ctx, x),
            Norm::Rms(norm) => norm.forward(ctx, x),
        }
    }
}
