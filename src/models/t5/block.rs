//! A layer of the encoder or the decoder: pre-norm sublayers with residual connections.

use crate::data::extent::Extent;
use crate::data::ragged::Bucket;
use crate::models::t5::Config;
use crate::nn::attention::{AttentionConfig, Bias, Mask};
use crate::nn::cross_attention::{CrossAttention, CrossAttentionConfig};
use crate::nn::feed_forward::{self, FeedForwardConfig};
use crate::nn::norm::Norm;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::dropout;
use tch::{Kind, Tensor};

/// The largest absolute value of a layer's output in fp16: transformers clamps larger sums to it.
const LARGEST_HALF: f64 = 65504.0 - 1000.0;

/// `x + dropout(attention(norm(x)))`: self-attention, or cross-attention to the encoder. Scores are not scaled.
#[derive(Debug)]
pub struct Attention {
    dropout: f64,
    norm: Norm,
    inner: CrossAttention,
}

impl Attention {
    /// Returns the cost; the keys are this many tokens of the encoder, or the text itself, with a bias. The input of
    /// the first attention is the boundary activations before it.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, memory: Option<f64>) -> Cost {
        let numbers = x.tokens * self.norm.size() as f64;
        let parts = [
            self.norm.cost(how, x.tokens, memory.is_some()),
            self.inner.cost(how, x, memory),
            dropout::cost(how, numbers, self.dropout),
            clamp_cost(how, numbers),
        ];
        parts.into_iter().sum::<Cost>().beside(how.element() * numbers)
    }

    /// Declares `name.norm`, `name.query`, `name.key_value` and `name.out`.
    pub fn new(b: &mut ParamBuilder, name: &str, config: &Config, mask: Mask) -> Self {
        let &Config { d_model, d_kv, num_heads, initializer_factor: factor, .. } = config;
        let std = |size: i64| factor * (size as f64).powf(-0.5);
        let attention = AttentionConfig {
            heads: num_heads,
            kv_heads: num_heads,
            head_dim: d_kv,
            scale: 1.0,
            dropout: config.attention_dropout,
            mask,
        };
        let stds = [std(d_model * d_kv), std(d_model), std(num_heads * d_kv)];
        b.scope(name, |b| Attention {
            dropout: config.dropout_rate,
            norm: Norm::rms(b, "norm", d_model, config.layer_norm_epsilon),
            inner: CrossAttention::new(b, CrossAttentionConfig { hidden: d_model, attention, bias: false, stds }),
        })
    }

    /// `x` `[T, d_model]` to the same shape; `memory` is the encoder's output, `[its tokens, d_model]`.
    pub fn forward(
        &self,
        ctx: &mut Ctx,
        x: &Tensor,
        memory: Option<&Tensor>,
        buckets: &[Bucket],
        bias: Option<Bias>,
    ) -> Tensor {
        let normed = self.norm.forward(ctx, x);
        let out = self.inner.forward(ctx, &normed, memory, buckets, bias);
        bounded(x + ctx.dropout(out, self.dropout))
    }
}

/// `x + dropout(feed_forward(norm(x)))`.
#[derive(Debug)]
pub struct FeedForward {
    dropout: f64,
    norm: Norm,
    inner: feed_forward::FeedForward,
}

impl FeedForward {
    /// Declares `mlp.norm`, `mlp.up` and `mlp.down`.
    pub fn new(b: &mut ParamBuilder, config: &Config) -> Self {
        let &Config { d_model, d_ff, activation, gated, initializer_factor: factor, dropout_rate, .. } = config;
        let std = |size: i64| factor * (size as f64).powf(-0.5);
        let inner = FeedForwardConfig {
            hidden: d_model,
            intermediate: d_ff,
            activation,
            gated,
            bias: false,
            dropout: dropout_rate,
            std: std(d_model),
            out_std: std(d_ff),
        };
        b.scope("mlp", |b| FeedForward {
            dropout: dropout_rate,
            norm: Norm::rms(b, "norm", d_model, config.layer_norm_epsilon),
            inner: feed_forward::FeedForward::new(b, inner),
        })
    }

    /// `[T, d_model]` to the same shape.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Tensor {
        let normed = self.norm.forward(ctx, x);
        let out = self.inner.forward(ctx, &normed);
        bounded(x + ctx.dropout(out, self.dropout))
    }

    /// Returns the cost for this many rows.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        let numbers = rows * self.norm.size() as f64;
        let drops = dropout::cost(how, numbers, self.dropout);
        let inner = self.norm.cost(how, rows, true).then(self.inner.cost(how, rows)).then(drops);
        inner.then(clamp_cost(how, numbers)).beside(how.element() * numbers)
    }
}

/// A clamp keeps its input.
fn clamp_cost(how: &ComputeMode, numbers: f64) -> Cost {
    let bytes = if how.kind == Kind::Half { how.element() * numbers } else { 0.0 };
    Cost::op(bytes, bytes, bytes, [0.0; 2])
}

/// Clamps fp16 to its finite range.
fn bounded(x: Tensor) -> Tensor {
    if x.kind() == Kind::Half { x.clamp(-LARGEST_HALF, LARGEST_HALF) } else { x }
}
