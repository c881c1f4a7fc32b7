//! The layers between hidden states and an output layer.

use crate::nn::linear::Linear;
use crate::nn::norm::{Norm, NormKind};
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::gated::activation::Activation;
use tch::Tensor;

/// A dense layer, its activation and norm (arXiv 1810.04805).
#[derive(Debug)]
pub struct PredictionHead {
    config: PredictionHeadConfig,
    dense: Linear,
    norm: Norm,
}

/// Configuration of a [`PredictionHead`].
#[derive(Debug, Clone, Copy)]
pub struct PredictionHeadConfig {
    pub hidden: i64,
    /// The width of the result.
    pub width: i64,
    /// Whether the dense layer has a bias.
    pub bias: bool,
    pub activation: Activation,
    pub norm: NormKind,
    pub norm_eps: f64,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
}

impl PredictionHead {
    /// Declares `name.dense` `[width, hidden]` and `name.norm` `[width]`.
    pub fn new(b: &mut ParamBuilder, name: &str, config: PredictionHeadConfig) -> Self {
        let PredictionHeadConfig { hidden, width, bias, norm, norm_eps, std, .. } = config;
        b.scope(name, |b| PredictionHead {
            config,
            dense: Linear::with_bias(b, "dense", hidden, width, std, bias),
            norm: Norm::new(b, "norm", norm, width, norm_eps),
        })
    }

    /// `[n, hidden]` to `[n, width]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Tensor {
        let x = self.config.activation.forward(&self.dense.forward(ctx, x));
        self.norm.forward(ctx, &x)
    }

    /// Returns the cost for this many rows.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        let kept = how.element() * rows * self.config.width as f64;
        let activated = Cost::op(kept, kept, kept, [0.0; 2]);
        [self.dense.cost(how, rows, true), activated, self.norm.cost(how, rows, true)].into_iter().sum()
    }
}
