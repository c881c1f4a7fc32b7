//! One layer: relative attention and a feed-forward part, each followed by its norm.

use crate::data::batch::Batch;
use crate::models::xlnet::attention::RelativeAttention;
use crate::models::xlnet::config::LayerConfig;
use crate::nn::linear::Linear;
use crate::nn::residual::ResidualNorm;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

#[derive(Debug)]
pub struct Layer {
    config: LayerConfig,
    attention: RelativeAttention,
    attended: ResidualNorm,
    up: Linear,
    mixed: ResidualNorm,
}

impl Layer {
    /// Declares the layer's parameters.
    pub fn new(b: &mut ParamBuilder, config: LayerConfig) -> Self {
        let LayerConfig { hidden, intermediate, norm_eps, std, .. } = config;
        let (attention, attended) = b.scope("attention", |b| {
            let attention = RelativeAttention::new(b, config);
            let out = Linear::without_bias(b, "out", hidden, hidden, std);
            (attention, ResidualNorm::new(b, out, hidden, norm_eps))
        });
        let (up, mixed) = b.scope("mlp", |b| {
            let up = Linear::new(b, "up", hidden, intermediate, std);
            let down = Linear::new(b, "down", intermediate, hidden, std);
            (up, ResidualNorm::new(b, down, hidden, norm_eps))
        });
        Layer { config, attention, attended, up, mixed }
    }

    /// Elements that forward keeps for backward: eleven `[T, hidden]` around attention and the norms, the feed-forward part
    /// before and after its activation and its dropout, and for each pair of tokens the attention weights, thrice with
    /// dropout, and whether the segments differ.
    pub fn activations(&self, tokens: u64, longest: u64) -> u64 {
        let LayerConfig { hidden, intermediate, attention, .. } = self.config;
        let weights = if attention.dropout > 0.0 { 3 } else { 1 } * attention.heads as u64 + 1;
        tokens * (11 * hidden as u64 + 3 * intermediate as u64 + weights * longest)
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, batch: &Batch) -> Tensor {
        let LayerConfig { activation, dropout, .. } = self.config;
        let attended = self.attention.forward(ctx, x, batch);
        let x = self.attended.forward(ctx, &attended, x, dropout);
        let inner = activation.forward(&self.up.forward(ctx, &x));
        let inner = ctx.dropout(inner, dropout);
        self.mixed.forward(ctx, &inner, &x, dropout)
    }
}
