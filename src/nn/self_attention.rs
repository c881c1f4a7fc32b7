//! The attention layer of a block: projections and the kernel.

use crate::data::extent::Extent;
use crate::data::ragged::Sequences;
use crate::nn::attention::{AttentionConfig, self_attention};
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::rotary::Angles;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::attention::Around;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::rotary;
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
    head_norms: Option<[Norm; 2]>,
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
            head_norms: head_norm.map(|eps| ["q_norm", "k_norm"].map(|name| Norm::rms(b, name, head_dim, eps))),
            out: Linear::with_bias(b, "out", heads * head_dim, hidden, out_std, out_bias),
        }
    }

    /// `[T, hidden]` to `[T, hidden]`; `angles` rotate queries and keys by their positions.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences, angles: Option<&Angles>) -> Tensor {
        let config = &self.config.attention;
        let qkv = self.qkv.forward(ctx, x);
        let qkv = match &self.head_norms {
            None => qkv,
            Some(norms) => {
                let counts = [config.heads, config.kv_heads, config.kv_heads];
                let parts = qkv.split_with_sizes(counts.map(|n| n * config.head_dim), 1);
                let normed = |part: usize| {
                    let heads = parts[part].view([-1, counts[part], config.head_dim]);
                    norms[part].forward(ctx, &heads).flatten(1, 2)
                };
                Tensor::cat(&[normed(0), normed(1), parts[2].shallow_clone()], 1)
            }
        };
        let qkv = match angles {
            Some(angles) => angles.rotate(qkv, config.heads + config.kv_heads),
            None => qkv,
        };
        let attended = self_attention(ctx, config, &qkv, sequences, None);
        self.out.forward(ctx, &attended)
    }

    /// Returns the cost of the whole layer over these sequences; with `keeps`, its input is counted as kept.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, keeps: bool, turns: bool) -> Cost {
        let config = &self.config.attention;
        let AttentionConfig { heads, kv_heads, head_dim, .. } = *config;
        let columns = |heads: i64| (heads * head_dim) as f64;
        let numbers = |heads: i64| x.tokens * columns(heads);
        let (joined, placed) = (numbers(heads + 2 * kv_heads), numbers(heads + kv_heads));
        let e = how.element();
        let norms: Cost = match &self.head_norms {
            Some([q, k]) => {
                let [q_rows, k_rows] = [heads, kv_heads].map(|heads| x.tokens * heads as f64);
                // The columns of queries and keys are copied to be normalized, then all are joined again.
                let copies = Cost::op(e * placed, e * joined, e * joined, [e * placed; 2]);
                copies.then(q.cost(how, q_rows, false)).then(k.cost(how, k_rows, false))
            }
            None => Cost::default(),
        };
        let turned = match turns {
            true => rotary::cost(how, x.tokens, columns(heads + 2 * kv_heads), columns(heads + kv_heads)),
            false => Cost::default(),
        };
        let kernel = config.cost(how, x, Around::Joined);
        let parts = [self.qkv.cost(how, x.tokens, keeps), norms, turned, kernel, self.out.cost(how, x.tokens, true)];
        let product = e * joined;
        let all: Cost = parts.into_iter().sum();
        // The matmul result stays until the layer returns.
        all.alone_at_least(kernel.alone + if x.padded_queries > 0.0 { product } else { 0.0 })
            .alone_at_least(product + 2.0 * e * numbers(heads))
    }
}
