//! Transformer blocks.

use crate::data::extent::Extent;
use crate::data::ragged::Sequences;
use crate::nn::attention::AttentionConfig;
use crate::nn::disentangled_attention::{DisentangledAttention, DisentangledConfig, PositionTerms};
use crate::nn::feed_forward::{FeedForward, FeedForwardConfig};
use crate::nn::relative_positions::RelativePositions;
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

    fn disentangled(&self, terms: PositionTerms) -> DisentangledConfig {
        let BlockConfig { hidden, attention, std, .. } = *self;
        DisentangledConfig { hidden, attention, terms, std }
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

/// Attention of a block.
#[derive(Debug)]
enum Attention {
    Plain(SelfAttention),
    Disentangled(DisentangledAttention),
}

/// The post-norm encoder block of the original Transformer and of BERT (arXiv 1706.03762, 1810.04805):
/// `x = norm(x + attention(x)); x = norm(x + feed_forward(x))`.
#[derive(Debug)]
pub struct PostNormBlock {
    hidden: i64,
    attention: Attention,
    attended: ResidualNorm,
    feed_forward: FeedForward,
    mixed: ResidualNorm,
}

impl PostNormBlock {
    /// Declares the block's parameters: `attention` with `norm` in it, `mlp` with `norm` in it.
    /// With relative positions, attention is disentangled.
    pub fn new(
        b: &mut ParamBuilder,
        config: BlockConfig,
        relative: Option<(&RelativePositions, PositionTerms)>,
    ) -> Self {
        let BlockConfig { hidden, norm_eps, attended_dropout, mlp_dropout, .. } = config;
        let (attention, attended) = b.scope("attention", |b| {
            let attention = match relative {
                None => Attention::Plain(SelfAttention::new(b, config.attention_layer())),
                Some((positions, terms)) => {
                    Attention::Disentangled(DisentangledAttention::new(b, config.disentangled(terms), positions))
                }
            };
            (attention, ResidualNorm::new(b, "norm", hidden, norm_eps, attended_dropout))
        });
        let (feed_forward, mixed) = b.scope("mlp", |b| {
            let feed_forward = FeedForward::new(b, config.feed_forward());
            (feed_forward, ResidualNorm::new(b, "norm", hidden, norm_eps, mlp_dropout))
        });
        PostNormBlock { hidden, attention, attended, feed_forward, mixed }
    }

    /// Returns the cost over these sequences; the block before counts the input, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        let hidden = how.element() * x.tokens * self.hidden as f64;
        let attention = match &self.attention {
            Attention::Plain(attention) => attention.cost(how, x, false, false),
            Attention::Disentangled(attention) => attention.cost(how, x),
        };
        let attended = attention.then(self.attended.cost(how, x.tokens));
        let mixed = self.feed_forward.cost(how, x.tokens).then(self.mixed.cost(how, x.tokens));
        attended.beside(hidden).then(mixed.beside(hidden))
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences) -> Tensor {
        let attended = match &self.attention {
            Attention::Plain(attention) => attention.forward(ctx, x, sequences, None),
            Attention::Disentangled(attention) => attention.forward(ctx, x, sequences),
        };
        let x = self.attended.forward(ctx, attended, x);
        let mixed = self.feed_forward.forward(ctx, &x);
        self.mixed.forward(ctx, mixed, &x)
    }
}
