//! Transformer blocks.

use crate::data::extent::Extent;
use crate::data::ragged::{Bucket, Sequences};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::cross_attention::{CrossAttention, CrossAttentionConfig};
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
    /// The block's own attention layer.
    pub fn attention_layer(&self) -> SelfAttentionConfig {
        let BlockConfig { hidden, attention, std, .. } = *self;
        let (qkv_bias, out_bias, out_std) = (true, true, std);
        SelfAttentionConfig { hidden, attention, qkv_bias, out_bias, head_norm: None, std, out_std }
    }

    fn cross_attention(&self) -> CrossAttentionConfig {
        let BlockConfig { hidden, attention, std, .. } = *self;
        let attention = AttentionConfig { mask: Mask::Bidirectional, ..attention };
        CrossAttentionConfig { hidden, attention, bias: true, stds: [std; 3] }
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

/// The post-norm block of the original Transformer and of BERT (arXiv 1706.03762, 1810.04805), with an attention layer
/// `A`: `x = norm(x + attention(x)); x = norm(x + feed_forward(x))`, in a decoder with `x = norm(x + attention(x, memory))`
/// between them.
#[derive(Debug)]
pub struct PostNormBlock<A = SelfAttention> {
    hidden: i64,
    pub attention: A,
    attended: ResidualNorm,
    cross: Option<(CrossAttention, ResidualNorm)>,
    feed_forward: FeedForward,
    mixed: ResidualNorm,
}

impl PostNormBlock {
    /// Declares the block's parameters: `attention`, in a decoder `cross`, and `mlp`, each with `norm` in it.
    pub fn new(b: &mut ParamBuilder, config: BlockConfig) -> Self {
        Self::around(b, config, |b| SelfAttention::new(b, config.attention_layer()))
    }

    /// Returns the cost over these sequences and, in a decoder, their attention to this many tokens of the memory; the
    /// block before counts the input, as boundary activations.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, memory: Option<(&Extent, f64)>) -> Cost {
        self.cost_around(how, x.tokens, self.attention.cost(how, x, false, false), memory)
    }

    /// `[T, hidden]` to `[T, hidden]`; a decoder's block attends to a memory `[its tokens, hidden]` by these rectangles.
    pub fn forward(
        &self,
        ctx: &mut Ctx,
        x: &Tensor,
        sequences: &Sequences,
        memory: Option<(&Tensor, &[Bucket])>,
    ) -> Tensor {
        let attended = self.attention.forward(ctx, x, sequences, None);
        self.after(ctx, attended, x, memory)
    }
}

impl<A> PostNormBlock<A> {
    /// As [`PostNormBlock::new`], around an attention layer that `attention` declares.
    pub fn around(b: &mut ParamBuilder, config: BlockConfig, attention: impl FnOnce(&mut ParamBuilder) -> A) -> Self {
        let BlockConfig { hidden, norm_eps, attended_dropout, mlp_dropout, .. } = config;
        let (attention, attended) =
            b.scope("attention", |b| (attention(b), ResidualNorm::new(b, "norm", hidden, norm_eps, attended_dropout)));
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

    /// Returns the cost for this many rows, with that of the attention layer and, in a decoder, of attention to a memory.
    pub fn cost_around(&self, how: &ComputeMode, rows: f64, attention: Cost, memory: Option<(&Extent, f64)>) -> Cost {
        let hidden = how.element() * rows * self.hidden as f64;
        let attended = attention.then(self.attended.cost(how, rows));
        let crossed = self.cross.as_ref().zip(memory).map(|((attention, norm), (x, tokens))| {
            attention.cost(how, x, Some(tokens)).then(norm.cost(how, x.tokens)).beside(hidden)
        });
        let mixed = self.feed_forward.cost(how, rows).then(self.mixed.cost(how, rows));
        attended.beside(hidden).then(crossed.unwrap_or_default()).then(mixed.beside(hidden))
    }

    /// Runs the block after its attention layer, whose output for `x` is `attended`: `[T, hidden]` to `[T, hidden]`.
    pub fn after(&self, ctx: &mut Ctx, attended: Tensor, x: &Tensor, memory: Option<(&Tensor, &[Bucket])>) -> Tensor {
        let mut x = self.attended.forward(ctx, attended, x);
        if let Some(((attention, norm), (memory, buckets))) = self.cross.as_ref().zip(memory) {
            let attended = attention.forward(ctx, &x, Some(memory), buckets, None);
            x = norm.forward(ctx, attended, &x);
        }
        let mixed = self.feed_forward.forward(ctx, &x);
        self.mixed.forward(ctx, mixed, &x)
    }

    /// The same for the first token of each sequence only: `[T, hidden]` to `[S, hidden]`.
    pub fn after_first(&self, ctx: &mut Ctx, attended: Tensor, x: &Tensor, sequences: &Sequences) -> Tensor {
        let [attended, x] = [attended, x.shallow_clone()].map(|rows| rows.index_select(0, sequences.first()));
        self.after(ctx, attended, &x, None)
    }

    /// As [`PostNormBlock::cost_around`], with [`PostNormBlock::after_first`].
    pub fn cost_of_first(&self, how: &ComputeMode, x: &Extent, attention: Cost) -> Cost {
        let [first, all] = [x.sequences, x.tokens].map(|rows| how.element() * rows * self.hidden as f64);
        // The rows of two tensors: of attention's output, and of the input, which bypasses it.
        let picked = Cost::op(0.0, 2.0 * all, 2.0 * first, [0.0; 2]);
        attention.beside(all).then(picked).then(self.cost_around(how, x.sequences, Cost::default(), None))
    }
}
