//! Attention with one projection for queries and one for keys and values.

use crate::data::extent::Extent;
use crate::data::ragged::Bucket;
use crate::nn::attention::{AttentionConfig, Bias, attention};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::attention::Around;
use crate::ops::cost::{ComputeMode, Cost};
use tch::Tensor;

/// Configuration of a [`CrossAttention`].
#[derive(Debug, Clone, Copy)]
pub struct CrossAttentionConfig {
    pub hidden: i64,
    pub attention: AttentionConfig,
    /// Whether the projections have a bias.
    pub bias: bool,
    /// Standard deviations of newly initialized matrices: of queries, of keys and values, of the output.
    pub stds: [f64; 3],
}

/// A decoder's attention to the encoder's output, the memory (arXiv 1706.03762, section 3.2.3); without a memory, a
/// sequence's attention to itself.
#[derive(Debug)]
pub struct CrossAttention {
    config: AttentionConfig,
    query: Linear,
    key_value: Linear,
    out: Linear,
}

impl CrossAttention {
    /// Declares `query` `[heads * head_dim, hidden]`, `key_value` `[2 * heads * head_dim, hidden]` and `out` `[hidden,
    /// heads * head_dim]`.
    pub fn new(b: &mut ParamBuilder, config: CrossAttentionConfig) -> Self {
        let CrossAttentionConfig { hidden, attention: config, bias, stds: [query, key_value, out] } = config;
        let inner = config.heads * config.head_dim;
        CrossAttention {
            config,
            query: Linear::with_bias(b, "query", hidden, inner, query, bias),
            key_value: Linear::with_bias(b, "key_value", hidden, 2 * inner, key_value, bias),
            out: Linear::with_bias(b, "out", inner, hidden, out, bias),
        }
    }

    /// `x` `[T, hidden]` to the same shape; `memory` is `[its tokens, hidden]`.
    pub fn forward(
        &self,
        ctx: &mut Ctx,
        x: &Tensor,
        memory: Option<&Tensor>,
        buckets: &[Bucket],
        bias: Option<Bias>,
    ) -> Tensor {
        let query = self.query.forward(ctx, x);
        let key_value = match memory {
            Some(memory) => ctx.once(|ctx| self.key_value.forward(ctx, memory)),
            None => self.key_value.forward(ctx, x),
        };
        let key_value = key_value.chunk(2, 1);
        let attended = attention(ctx, &self.config, [&query, &key_value[0], &key_value[1]], buckets, bias);
        self.out.forward(ctx, &attended)
    }

    /// Returns the cost over these sequences, whose tokens are kept; the keys are this many tokens of the memory, or the
    /// sequences themselves, with a bias.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, memory: Option<f64>) -> Cost {
        let around = if memory.is_some() { Around::Apart } else { Around::Biased };
        let parts = [
            self.query.cost(how, x.tokens, true),
            self.key_value.cost(how, memory.unwrap_or(x.tokens), false),
            self.config.cost(how, x, around),
            self.out.cost(how, x.tokens, true),
        ];
        parts.into_iter().sum()
    }
}
