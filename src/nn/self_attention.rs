//! The attention layer of a block: projections and the kernel.

use crate::data::extent::Extent;
use crate::data::ragged::Sequences;
use crate::nn::attention::{AttentionConfig, attention, self_attention};
use crate::nn::attention_cost::Around;
use crate::nn::cost::{ComputeMode, Cost};
use crate::nn::linear::Linear;
use crate::nn::norm::RmsNorm;
use crate::nn::rotary::Angles;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// Configuration of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttentionConfig {
    pub hidden: i64,
    pub attention: AttentionConfig,
    pub qkv_bias: bool,
    pub out_bias: bool,
    /// Epsilon of the norm of each head's queries and keys (QK norm, arXiv 2010.04245), if there is one.
    pub head_norm: Option<f64>,
    /// Standard deviation of newly initialized matrices, and of the output matrix.
    pub std: f64,
    pub out_std: f64,
}

/// Projections of queries, keys and values, attention, and the output projection.
#[derive(Debug)]
pub struct SelfAttention {
    config: SelfAttentionConfig,
    qkv: Linear,
    head_norms: Option<[RmsNorm; 2]>,
    out: Linear,
}

impl SelfAttention {
    /// Declares `qkv` `[(heads + 2 * kv_heads) * head_dim, hidden]`, `q_norm` and `k_norm` `[head_dim]` where heads are
    /// normed, and `out` `[hidden, heads * head_dim]`.
    pub fn new(b: &mut ParamBuilder, config: SelfAttentionConfig) -> Self {
        let SelfAttentionConfig { hidden, attention, qkv_bias, out_bias, head_norm, std, out_std } = config;
        let AttentionConfig { heads, kv_heads, head_dim, .. } = attention;
        SelfAttention {
            config,
            qkv: Linear::with_bias(b, "qkv", hidden, (heads + 2 * kv_heads) * head_dim, std, qkv_bias),
            head_norms: head_norm.map(|eps| ["q_norm", "k_norm"].map(|name| RmsNorm::new(b, name, head_dim, eps))),
            out: Linear::with_bias(b, "out", heads * head_dim, hidden, out_std, out_bias),
        }
    }

    /// `[T, hidden]` to `[T, hidden]`; `angles` rotate queries and keys by their positions.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences, angles: Option<&Angles>) -> Tensor {
        let config = &self.config.attention;
        let qkv = self.qkv.forward(ctx, x);
        let attended = if angles.is_none() && self.head_norms.is_none() {
            self_attention(ctx, config, &qkv, sequences.buckets(), None)
        } else {
            let counts = [config.heads, config.kv_heads, config.kv_heads];
            let parts = qkv.split_with_sizes(counts.map(|n| n * config.head_dim), 1);
            let placed = |part: usize| {
                let heads = parts[part].view([-1, counts[part], config.head_dim]);
                let heads = self.head_norms.as_ref().map_or(heads.shallow_clone(), |n| n[part].forward(ctx, &heads));
                angles.map_or(heads.shallow_clone(), |angles| angles.turn(&heads)).flatten(1, 2)
            };
            let (q, k) = (placed(0), placed(1));
            attention(ctx, config, [&q, &k, &parts[2]], sequences.buckets(), None)
        };
        self.out.forward(ctx, &attended)
    }

    /// Returns the cost of the whole layer over these sequences; with `keeps`, its input is counted as kept.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, keeps: bool, turns: bool) -> Cost {
        let config = &self.config.attention;
        let AttentionConfig { heads, kv_heads, head_dim, .. } = *config;
        let numbers = |heads: i64| x.tokens * (heads * head_dim) as f64;
        let (joined, placed) = (numbers(heads + 2 * kv_heads), numbers(heads + kv_heads));
        let e = how.element();
        let norms: Cost = match &self.head_norms {
            Some([q, k]) => {
                let [q_rows, k_rows] = [heads, kv_heads].map(|heads| x.tokens * heads as f64);
                // The matmul result itself is the fp32 copy that they keep.
                let input = if how.element() < 4.0 { 0.0 } else { e * joined };
                Cost::keep(input).then(q.cost(how, q_rows, false)).then(k.cost(how, k_rows, false))
            }
            None => Cost::default(),
        };
        let turned = match (turns, &self.head_norms) {
            // The rotated columns: all of them, if they are not normalized. The angles belong to the batch.
            (true, None) => Cost::op(e * joined, e * placed, e * placed, [e * placed; 2]),
            (true, Some(_)) => Cost::op(e * placed, e * placed, e * placed, [e * placed; 2]),
            (false, _) => Cost::default(),
        };
        let around = if turns || self.head_norms.is_some() { Around::Apart } else { Around::Joined };
        let kernel = config.cost(how, x, around);
        let parts = [self.qkv.cost(how, x.tokens, keeps), norms, turned, kernel, self.out.cost(how, x.tokens, true)];
        let product = e * joined;
        let all: Cost = parts.into_iter().sum();
        // The matmul result stays until the layer returns.
        all.alone_at_least(kernel.alone + if x.padded_queries > 0.0 || turns { product } else { 0.0 })
            .alone_at_least(product + 2.0 * e * numbers(heads))
    }
}
