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
    /// Whether there is a norm before attention.
    pub attention_norm: bool,
    pub attention: SelfAttentionConfig,
    pub feed_forward: FeedForwardConfig,
    /// Dropout on the output of attention.
    pub attended_dropout: f64,
    /// Dropout on the output of the feed-forward layer.
    pub mlp_dropout: f64,
}

/// The pre-norm block of GPT-2 and later models (arXiv 2002.04745):
/// `x = x + attention(norm(x)); x = x + feed_forward(norm(x))`.
#[derive(Debug)]
pub struct PreNormBlock {
    config: PreNormConfig,
    attention_norm: Option<Norm>,
    attention: SelfAttention,
    norm: Norm,
    feed_forward: FeedForward,
}

impl PreNormBlock {
    /// Declares `attention.norm` if there is one, `attention.*`, `mlp.norm` and `mlp.*`.
    pub fn new(b: &mut ParamBuilder, config: PreNormConfig) -> Self {
        let PreNormConfig { norm, norm_eps, attention_norm, attention, feed_forward, .. } = config;
        let (attention_norm, attention) = b.scope("attention", |b| {
            let normed = attention_norm.then(|| Norm::new(b, "norm", norm, attention.hidden, norm_eps));
            (normed, SelfAttention::new(b, attention))
        });
        let (norm, feed_forward) = b.scope("mlp", |b| {
            (Norm::new(b, "norm", norm, feed_forward.hidden, norm_eps), FeedForward::new(b, feed_forward))
        });
        PreNormBlock { config, attention_norm, attention, norm, feed_forward }
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences, angles: Option<&Angles>) -> Tensor {
        let normed = self.attention_norm.as_ref().map_or_else(|| x.shallow_clone(), |norm| norm.forward(ctx, x));
        let attended = self.attention.forward(ctx, &normed, sequences, angles);
        let (x, normed) = self.norm.residual(ctx, attended, x, self.config.attended_dropout);
        let out = self.feed_forward.forward(ctx, &normed);
        x + ctx.dropout(out, self.config.mlp_dropout)
    }

    /// Returns the cost of the block over these sequences; `turns` with rotary position embeddings. Its input is
    /// counted by the block before, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, turns: bool) -> Cost {
        let PreNormConfig { feed_forward, attended_dropout, mlp_dropout, .. } = self.config;
        let numbers = x.tokens * feed_forward.hidden as f64;
        let (hidden, drops) = (how.element() * numbers, dropout::cost(how, numbers, mlp_dropout));
        let norm = self.attention_norm.as_ref().map(|norm| norm.cost(how, x.tokens, false));
        let is_normed = norm.is_some();
        let attended = norm.unwrap_or_default().then(self.attention.cost(how, x, is_normed, turns));
        let sum = self.norm.residual_cost(how, x.tokens, attended_dropout);
        let mixed = sum.then(self.feed_forward.cost(how, x.tokens)).then(drops);
        // The normalized input stays until the block returns.
        let [attended, mixed] = [(attended, if is_normed { 1.0 } else { 0.0 }), (mixed, 2.0)].map(|(part, normed)| {
            let part = part.beside(hidden);
            part.alone_at_least(part.alone + normed * hidden)
        });
        attended.then(mixed)
    }
}
