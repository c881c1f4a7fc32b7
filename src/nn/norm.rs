//! Normalisation layers.

use crate::ffi;
use crate::nn::{Ctx, Init, ParamBuilder, ParamId, precision};
use tch::Tensor;

/// Layer normalisation (arXiv 1607.06450) over the last dimension, with scale and shift.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: ParamId,
    bias: ParamId,
    size: i64,
    eps: f64,
}

impl LayerNorm {
    /// Declares `weight` (ones) and `bias` (zeros), `[size]` each.
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
