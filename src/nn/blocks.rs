//! Transformer blocks.

use crate::data::extent::Extent;
use crate::data::ragged::{Bucket, Sequences};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::cross_attention::{CrossAttention, CrossAttentionConfig};
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
    /// Whether the block also attends to a memory, as a decoder's.
    pub cross: bool,
    pub activation: Activation,
    /// Dropout on the output of the activation.
    pub activation_dropout: f64,
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

    fn cross_attention(&self) -> CrossAttentionConfig {
        let BlockConfig { hidden, attention, std, .. } = *self;
        let attention = AttentionConfig { mask: Mask::Bidirectional, ..attention };
        CrossAttentionConfig { hidden, attention, bias: true, stds: [std; 3] }
    }

    fn disentangled(&self, terms: PositionTerms) -> DisentangledConfig {
        let BlockConfig { hidden, attention, std, .. } = *self;
        DisentangledConfig { hidden, attention, terms, std }
    }

    fn feed_forward(&self) -> FeedForwardConfig {
        let BlockConfig { hidden, intermediate, activation, activation_dropout, std, .. } = *self;
        FeedForwardConfig {
            hidden,
            intermediate,
            activation,
            gated: false,
            bias: true,
            dropout: activation_dropout,
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

/// The post-norm block of the original Transformer and of BERT (arXiv 1706.03762, 1810.04805): `x = norm(x +
/// attention(x)); x = norm(x + feed_forward(x))`, in a decoder with `x = norm(x + attention(x, memory))` between them.
#[derive(Debug)]
pub struct PostNormBlock {
    hidden: i64,
    attention: Attention,
    attended: ResidualNorm,
    cross: Option<(CrossAttention, ResidualNorm)>,
    feed_forward: FeedForward,
    mixed: ResidualNorm,
}

impl PostNormBlock {
    /// Declares the block's parameters: `attention`, in a decoder `cross`, and `mlp`, each with `norm` in it. With relative
    /// positions, attention is disentangled.
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
        let cross = config.cross.then(|| {
            b.scope("cross", |b| {
                let attention = CrossAttention::new(b, config.cross_attention());
                (attention, ResidualNorm::new(b, "norm", hidden, norm_eps, attended_dropout))
            })
        });
        let (feed_forward, mixed) = b.scope("mlp", |b| {
            let feed_forward = FeedForward::new(b, config.feed_forward());
            (feed_forward, ResidualNorm::new(b, "norm", hidden, norm_eps, mlp_dropout))
        });
        PostNormBlock { hidden, attention, attended, cross, feed_forward, mixed }
    }

    /// Returns the cost over these sequences and, in a decoder, their attention to this many tokens of the memory; the
    /// block before counts the input, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, memory: Option<(&Extent, f64)>) -> Cost {
        let hidden = how.element() * x.tokens * self.hidden as f64;
        let attention = match &self.attention {
            Attention::Plain(attention) => attention.cost(how, x, false, false),
            Attention::Disentangled(attention) => attention.cost(how, x),
        };
        let attended = attention.then(self.attended.cost(how, x.tokens));
        let crossed = self.cross.as_ref().zip(memory).map(|((attention, norm), (x, tokens))| {
            attention.cost(how, x, Some(tokens)).then(norm.cost(how, x.tokens)).beside(hidden)
        });
        let mixed = self.feed_forward.cost(how, x.tokens).then(self.mixed.cost(how, x.tokens));
        attended.beside(hidden).then(crossed.unwrap_or_default()).then(mixed.beside(hidden))
    }

    /// `[T, hidden]` to `[T, hidden]`; a decoder's block attends to a memory `[its tokens, hidden]` by these rectangles.
    pub fn forward(
        &self,
        ctx: &mut Ctx,
        x: &Tensor,
        sequences: &Sequences,
        memory: Option<(&Tensor, &[Bucket])>,
    ) -> Tensor {
        let attended = match &self.attention {
            Attention::Plain(attention) => attention.forward(ctx, x, sequences, None),
            Attention::Disentangled(attention) => attention.forward(ctx, x, sequences),
        };
        let mut x = self.attended.forward(ctx, attended, x);
        if let Some(((attention, norm), (memory, buckets))) = self.cross.as_ref().zip(memory) {
            let attended = attention.forward(ctx, &x, Some(memory), buckets, None);
            x = norm.forward(ctx, attended, &x);
        }
        let mixed = self.feed_forward.forward(ctx, &x);
        self.mixed.forward(ctx, mixed, &x)
    }
}
