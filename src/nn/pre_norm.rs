//! The pre-norm block.

use crate::data::extent::Extent;
use crate::data::ragged::Sequences;
use crate::nn::feed_forward::{FeedForward, FeedForwardConfig};
use crate::nn::norm::{Norm, NormKind};
use crate::nn::rotary::Angles;
use crate::nn::self_attention::{SelfAttention, SelfAttentionConfig};
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::dropout;
use tch::Tensor;

/// The configuration of a block.
#[derive(Debug, Clone, Copy)]
pub struct PreNormConfig {
    pub norm: NormKind,
    pub norm_eps: f64,
    pub attention: SelfAttentionConfig,
    pub feed_forward: FeedForwardConfig,
    /// Dropout on the outputs of attention and of the feed-forward layer.
    pub dropout: f64,
}

/// The pre-norm block of GPT-2 and later models (arXiv 2002.04745):
/// `x = x + attention(norm(x)); x = x + feed_forward(norm(x))`.
#[derive(Debug)]
pub struct PreNormBlock {
    config: PreNormConfig,
    attention_norm: Norm,
    attention: SelfAttention,
    norm: Norm,
    feed_forward: FeedForward,
}

impl PreNormBlock {
    /// Declares `attention.norm`, `attention.*`, `mlp.norm` and `mlp.*`.
    pub fn new(b: &mut ParamBuilder, config: PreNormConfig) -> Self {
        let PreNormConfig { norm, norm_eps, attention, feed_forward, .. } = config;
        let (attention_norm, attention) = b.scope("attention", |b| {
            (Norm::new(b, "norm", norm, attention.hidden, norm_eps), SelfAttention::new(b, attention))
        });
        let (norm, feed_forward) = b.scope("mlp", |b| {
            (Norm::new(b, "norm", norm, feed_forward.hidden, norm_eps), FeedForward::new(b, feed_forward))
        });
        PreNormBlock { config, attention_norm, attention, norm, feed_forward }
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences, angles: Option<&Angles>) -> Tensor {
        let normed = self.attention_norm.forward(ctx, x);
        let attended = self.attention.forward(ctx, &normed, sequences, angles);
        let (x, normed) = self.norm.residual(ctx, attended, x, self.config.dropout);
        let out = self.feed_forward.forward(ctx, &normed);
        x + ctx.dropout(out, self.config.dropout)
    }

    /// Returns the cost of the block over these sequences; `turns` with rotary position embeddings. Its input is
    /// counted by the block before, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, turns: bool) -> Cost {
        let PreNormConfig { feed_forward, dropout, .. } = self.config;
        let numbers = x.tokens * feed_forward.hidden as f64;
        let (hidden, drops) = (how.element() * numbers, dropout::cost(how, numbers, dropout));
        let normed = self.attention_norm.cost(how, x.tokens, false);
        let attended = normed.then(self.attention.cost(how, x, true, turns));
        let sum = self.norm.residual_cost(how, x.tokens, dropout);
        let mixed = sum.then(self.feed_forward.cost(how, x.tokens)).then(drops);
        // The normalized input stays until the block returns.
        let [attended, mixed] = [(attended, 1.0), (mixed, 2.0)].map(|(part, normed)| {
            let part = part.beside(hidden);
            part.alone_at_least(part.alone + normed * hidden)
        });
        attended.then(mixed)
    }
}
