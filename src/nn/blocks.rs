//! Transformer blocks.

use crate::data::extent::Extent;
use crate::data::ragged::Sequences;
use crate::nn::attention::AttentionConfig;
use crate::nn::feed_forward::{FeedForward, FeedForwardConfig};
use crate::nn::residual::ResidualNorm;
use crate::nn::self_attention::{SelfAttention, SelfAttentionConfig};
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::gated::activation::Activation;
use tch::Tensor;

/// Configuration of a block.
#[derive(Debug, Clone, Copy)]
pub struct BlockConfig {
    pub hidden: i64,
    pub intermediate: i64,
    pub attention: AttentionConfig,
    pub activation: Activation,
    /// Dropout on the output of attention.
    pub attended_dropout: f64,
    /// Dropout on the output of the feed-forward part.
    pub mlp_dropout: f64,
    pub norm_eps: f64,
    /// Standard deviation of newly initialized matrices.
    pub std: f64,
}

impl BlockConfig {
    fn attention_layer(&self) -> SelfAttentionConfig {
        let BlockConfig { hidden, attention, std, .. } = *self;
        let (qkv_bias, out_bias, out_std) = (true, true, std);
        SelfAttentionConfig { hidden, attention, qkv_bias, out_bias, head_norm: None, std, out_std }
    }

    fn feed_forward(&self) -> FeedForwardConfig {
        let BlockConfig { hidden, intermediate, activation, std, .. } = *self;
        FeedForwardConfig {
            hidden,
            intermediate,
            activation,
            gated: false,
            bias: true,
            dropout: 0.0,
            std,
            out_std: std,
        }
    }
}

/// The post-norm encoder block of the original Transformer and of BERT (arXiv 1706.03762, 1810.04805):
/// `x = norm(x + attention(x)); x = norm(x + feed_forward(x))`, with an attention layer `A`.
#[derive(Debug)]
pub struct PostNormBlock<A = SelfAttention> {
    hidden: i64,
    pub attention: A,
    attended: ResidualNorm,
    feed_forward: FeedForward,
    mixed: ResidualNorm,
}

impl PostNormBlock {
    /// Declares the block's parameters: `attention` with `norm` in it, `mlp` with `norm` in it.
    pub fn new(b: &mut ParamBuilder, config: BlockConfig) -> Self {
        Self::around(b, config, |b| SelfAttention::new(b, config.attention_layer()))
    }

    /// Returns the cost over these sequences; the block before counts the input, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        self.cost_around(how, x.tokens, self.attention.cost(how, x, false, false))
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences) -> Tensor {
        let attended = self.attention.forward(ctx, x, sequences, None);
        self.after(ctx, attended, x)
    }
}

impl<A> PostNormBlock<A> {
    /// As [`PostNormBlock::new`], around an attention layer that `attention` declares.
    pub fn around(b: &mut ParamBuilder, config: BlockConfig, attention: impl FnOnce(&mut ParamBuilder) -> A) -> Self {
        let BlockConfig { hidden, norm_eps, attended_dropout, mlp_dropout, .. } = config;
        let (attention, attended) =
            b.scope("attention", |b| (attention(b), ResidualNorm::new(b, "norm", hidden, norm_eps, attended_dropout)));
        let (feed_forward, mixed) = b.scope("mlp", |b| {
            let feed_forward = FeedForward::new(b, config.feed_forward());
            (feed_forward, ResidualNorm::new(b, "norm", hidden, norm_eps, mlp_dropout))
        });
        PostNormBlock { hidden, attention, attended, feed_forward, mixed }
    }

    /// Returns the cost for this many rows, with that of the attention layer.
    pub fn cost_around(&self, how: &ComputeMode, rows: f64, attention: Cost) -> Cost {
        let hidden = how.element() * rows * self.hidden as f64;
        let attended = attention.then(self.attended.cost(how, rows));
        let mixed = self.feed_forward.cost(how, rows).then(self.mixed.cost(how, rows));
        attended.beside(hidden).then(mixed.beside(hidden))
    }

    /// Runs the block after its attention layer, whose output for `x` is `attended`: `[T, hidden]` to `[T, hidden]`.
    pub fn after(&self, ctx: &mut Ctx, attended: Tensor, x: &Tensor) -> Tensor {
        let x = self.attended.forward(ctx, attended, x);
        let mixed = self.feed_forward.forward(ctx, &x);
        self.mixed.forward(ctx, mixed, &x)
    }
}
