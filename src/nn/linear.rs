//! The linear layer.

use crate::nn::{Ctx, Init, ParamBuilder, ParamId, precision};
use tch::Tensor;

/// `y = x W^T + b`, W of shape `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Linear {
    /// Declares `weight` `[outputs, inputs]`, drawn with `std`, and a zero `bias` `[outputs]`.
    pub fn new(b: &mut ParamBuilder, name: &str, inputs: i64, outputs: i64, std: f64) -> Self {
        b.scope(name, |b| Linear {
            weight: b.weight("weight", &[outputs, inputs], Init::Normal { std }),
            bias: Some(b.vector("bias", outputs, Init::Zeros)),
        })
    }

    /// `[T, in]` to `[T, out]`.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        precision::linear(x, ctx.param(self.weight), self.bias.map(|b| ctx.param(b)))
    }
}
