//! The linear layer.

use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::linear;
use tch::Tensor;

/// The input of a task's linear layer.
#[derive(Debug, Clone, Copy)]
pub struct HeadInput {
    pub width: i64,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
    /// Whether the family's classifiers have a bias.
    pub bias: bool,
}

/// `y = x W^T + b`, W of shape `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
    /// `[out, in]`
    shape: [i64; 2],
}

impl Linear {
    /// Declares `weight` `[outputs, inputs]`, initialized with standard deviation `std`, and a zero `bias` `[outputs]`.
    pub fn new(b: &mut ParamBuilder, name: &str, inputs: i64, outputs: i64, std: f64) -> Self {
        b.scope(name, |b| Linear {
            weight: b.weight("weight", &[outputs, inputs], Init::Normal { std }),
            bias: Some(b.vector("bias", outputs, Init::Zeros)),
            shape: [outputs, inputs],
        })
    }

    /// Declares the layer without a bias.
    pub fn without_bias(b: &mut ParamBuilder, name: &str, inputs: i64, outputs: i64, std: f64) -> Self {
        let weight = b.scope(name, |b| b.weight("weight", &[outputs, inputs], Init::Normal { std }));
        Linear { weight, bias: None, shape: [outputs, inputs] }
    }

    /// Declares the layer with or without a bias.
    pub fn with_bias(b: &mut ParamBuilder, name: &str, inputs: i64, outputs: i64, std: f64, bias: bool) -> Self {
        match bias {
            true => Self::new(b, name, inputs, outputs, std),
            false => Self::without_bias(b, name, inputs, outputs, std),
        }
    }

    /// Declares a task's layer on `input`: `classifier`, which is newly initialized if the file lacks it.
    pub fn head(b: &mut ParamBuilder, input: HeadInput, outputs: i64) -> Self {
        let HeadInput { width, std, bias } = input;
        b.newly_initialized(|b| Self::with_bias(b, "classifier", width, outputs, std, bias))
    }

    /// Returns the cost for this many rows; with `keeps`, the input is counted as kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64, keeps: bool) -> Cost {
        linear::cost(how, rows, self.shape, keeps)
    }

    /// Weight and bias.
    pub fn on<'a>(&self, ctx: &Ctx<'a>) -> (&'a Tensor, Option<&'a Tensor>) {
        (ctx.param(self.weight), self.bias.map(|b| ctx.param(b)))
    }

    /// `[T, in]` to `[T, out]`.
    pub fn forward(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        let (weight, bias) = self.on(ctx);
        linear::linear(x, weight, bias)
    }
}
