//! The linear layer.

use crate::nn::lora;
use crate::nn::param_builder::AdapterSlot;
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

/// `y = x W^T + b`, W of shape `[out, in]`; with an adapter ([`lora`]) W is frozen and the adapter's product is added.
/// W may be kept in int8 ([`Params::quantize`](crate::nn::Params::quantize)).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
    /// `[out, in]`
    shape: [i64; 2],
    slot: AdapterSlot,
}

impl Linear {
    /// Declares `weight` `[outputs, inputs]`, initialized with standard deviation `std`, and a zero `bias` `[outputs]`.
    pub fn new(b: &mut ParamBuilder, name: &str, inputs: i64, outputs: i64, std: f64) -> Self {
        b.scope(name, |b| {
            let (weight, slot) = b.linear("weight", &[outputs, inputs], Init::Normal { std });
            let bias = Some(b.vector("bias", outputs, Init::Zeros));
            Linear { weight, bias, shape: [outputs, inputs], slot }
        })
    }

    /// Declares the layer without a bias.
    pub fn without_bias(b: &mut ParamBuilder, name: &str, inputs: i64, outputs: i64, std: f64) -> Self {
        let (weight, slot) = b.scope(name, |b| b.linear("weight", &[outputs, inputs], Init::Normal { std }));
        Linear { weight, bias: None, shape: [outputs, inputs], slot }
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
        if self.slot.freezes() {
            return lora::cost(how, self.slot.adapter(), rows, self.shape, keeps);
        }
        linear::cost(how, rows, self.shape, keeps)
    }

    /// Whether the layer has an adapter: then an operation that computes with the bare weight would leave it out.
    pub fn is_adapted(&self) -> bool {
        self.slot.adapter().is_some()
    }

    /// Whether the layer only multiplies by its fp32 or half weight: it has no adapter, and no int8 weight.
    pub fn is_bare(&self, ctx: &Ctx) -> bool {
        !self.is_adapted() && ctx.int8(self.weight).is_none()
    }

    /// Weight and bias, of a bare layer.
    pub fn on<'a>(&self, ctx: &Ctx<'a>) -> (&'a Tensor, Option<&'a Tensor>) {
        (ctx.param(self.weight), self.bias.map(|b| ctx.param(b)))
    }

    /// `[T, in]` to `[T, out]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Tensor {
        if let Some(weight) = ctx.int8(self.weight) {
            return weight.linear(x, self.bias.map(|b| ctx.param(b)));
        }
        let (weight, bias) = self.on(ctx);
        match self.slot.adapter() {
            Some(adapter) => lora::linear(ctx, adapter, x, weight, bias),
            None => linear::linear(x, weight, bias),
        }
    }
}
