//! One layer: relative attention and a feed-forward layer, each followed by its norm.

use crate::data::batch::Batch;
use crate::data::extent::Extent;
use crate::models::xlnet::config::LayerConfig;
use crate::nn::feed_forward::FeedForward;
use crate::nn::relative_attention::RelativeAttention;
use crate::nn::residual::ResidualNorm;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use tch::Tensor;

#[derive(Debug)]
pub struct Layer {
    hidden: i64,
    attention: RelativeAttention,
    attended: ResidualNorm,
    feed_forward: FeedForward,
    mixed: ResidualNorm,
}

impl Layer {
    /// Declares `attention` and `mlp`, each with its `norm`.
    pub fn new(b: &mut ParamBuilder, config: LayerConfig) -> Self {
        let LayerConfig { attention, feed_forward, norm_eps, dropout } = config;
        let norm = |b: &mut ParamBuilder| ResidualNorm::new(b, "norm", attention.hidden, norm_eps, dropout);
        let (attention, attended) = b.scope("attention", |b| (RelativeAttention::new(b, attention), norm(b)));
        let (feed_forward, mixed) = b.scope("mlp", |b| (FeedForward::new(b, feed_forward), norm(b)));
        Layer { hidden: config.attention.hidden, attention, attended, feed_forward, mixed }
    }

    /// Returns the cost over these sequences; the block before counts the input, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        let hidden = how.element() * x.tokens * self.hidden as f64;
        let attended = self.attention.cost(how, x).then(self.attended.cost(how, x.tokens));
        let mixed = self.feed_forward.cost(how, x.tokens).then(self.mixed.cost(how, x.tokens));
        attended.beside(hidden).then(mixed.beside(hidden))
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, batch: &Batch) -> Tensor {
        let attended = self.attention.forward(ctx, x, &batch.sequences, &batch.segments);
        let x = self.attended.forward(ctx, attended, x);
        let mixed = self.feed_forward.forward(ctx, &x);
        self.mixed.forward(ctx, mixed, &x)
    }
}
