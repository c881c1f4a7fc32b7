//! The feed-forward layer of a block (MLP), plain or gated.

use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::dropout;
use crate::ops::gated::activation::Activation;
use crate::ops::gated::{self, gated_linear};
use tch::Tensor;

/// Configuration of a feed-forward layer.
#[derive(Debug, Clone, Copy)]
pub struct FeedForwardConfig {
    pub hidden: i64,
    pub intermediate: i64,
    pub activation: Activation,
    /// Whether the layer is gated (arXiv 2002.05202).
    pub gated: bool,
    pub bias: bool,
    /// Dropout on the output of the activation.
    pub dropout: f64,
    /// Standard deviation of newly initialized matrices, and of the output matrix.
    pub std: f64,
    pub out_std: f64,
}

/// `down(f(up(x)))`; gated `down(f(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct FeedForward {
    config: FeedForwardConfig,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    /// Declares `up` `[intermediate, hidden]`, or `[2 * intermediate, hidden]` with the gate first, and `down`
    /// `[hidden, intermediate]`.
    pub fn new(b: &mut ParamBuilder, config: FeedForwardConfig) -> Self {
        let FeedForwardConfig { hidden, intermediate, gated, bias, std, out_std, .. } = config;
        let rows = if gated { 2 * intermediate } else { intermediate };
        FeedForward {
            config,
            up: Linear::with_bias(b, "up", hidden, rows, std, bias),
            down: Linear::with_bias(b, "down", intermediate, hidden, out_std, bias),
        }
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Tensor {
        let FeedForwardConfig { activation, gated, dropout, .. } = self.config;
        let up = self.up.forward(ctx, x);
        if gated && !self.down.is_bare(ctx) {
            let halves = up.chunk(2, -1);
            let inner = ctx.dropout(activation.forward(&halves[0]) * &halves[1], dropout);
            return self.down.forward(ctx, &inner);
        }
        if gated {
            let drops = ctx.drops(dropout);
            let (weight, bias) = self.down.on(ctx);
            return gated_linear(&up, activation, drops, weight, bias);
        }
        let inner = ctx.dropout(activation.forward(&up), dropout);
        self.down.forward(ctx, &inner)
    }

    /// Returns the cost for this many rows; the input is kept.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        let FeedForwardConfig { hidden, intermediate, activation, gated, dropout, .. } = self.config;
        let inner = how.element() * rows * intermediate as f64;
        let up = self.up.cost(how, rows, true);
        if gated && self.down.is_adapted() {
            let product = Cost::op(3.0 * inner, 2.0 * inner, inner, [inner, inner]);
            let drops = dropout::cost(how, rows * intermediate as f64, dropout);
            return [up, product, drops, self.down.cost(how, rows, true)].into_iter().sum();
        }
        if gated {
            return up.then(gated::cost(how, activation, rows, [hidden, intermediate], dropout));
        }
        let drops = dropout::cost(how, rows * intermediate as f64, dropout);
        // Some activations compute their gradient from the result: that is the next layer's input, unless dropout is
        // between.
        let activated = match activation.is_of_result() && dropout == 0.0 {
            true => Cost::op(0.0, inner, inner, [0.0; 2]),
            false => Cost::op(inner, inner, inner, [0.0; 2]),
        };
        let all: Cost = [up, activated, drops, self.down.cost(how, rows, true)].into_iter().sum();
        all.alone_at_least(2.0 * inner + how.element() * rows * hidden as f64)
    }
}
