//! The attention layer of a block: projections around the kernel.

use crate::data::ragged::Sequences;
use crate::nn::attention::{AttentionConfig, attention, self_attention};
use crate::nn::linear::Linear;
use crate::nn::norm::RmsNorm;
use crate::nn::rotary::Angles;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// The shape of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttentionConfig {
    pub hidden: i64,
    pub attention: AttentionConfig,
    pub qkv_bias: bool,
    pub out_bias: bool,
    /// Epsilon of a norm of each head's queries and keys (arXiv 2010.04245), where there is one.
    pub head_norm: Option<f64>,
    /// Standard deviation of fresh matrices, and of the one back to `hidden`.
    pub std: f64,
    pub out_std: f64,
}

/// Queries, keys and values of a text, their attention, and the way back to the hidden states.
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

    /// `[T, hidden]` to `[T, hidden]`; `angles` turn queries and keys by their tokens' positions.
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

    /// Elements a token that forward keeps for backward, without the input: the projections; queries and keys once more
    /// for each thing done to them; keys and values repeated for groups; the result; with dropout the weights thrice.
    pub fn activations(&self, longest: u64) -> u64 {
        let AttentionConfig { heads, kv_heads, head_dim, dropout, .. } = self.config.attention;
        let steps = 1 + if self.head_norms.is_some() { 2 } else { 0 };
        let repeated = if kv_heads == heads { 0 } else { 2 * heads };
        let kept = (heads + 2 * kv_heads) + steps * (heads + kv_heads) + repeated + heads;
        let weights = if dropout > 0.0 { 3 * heads as u64 * longest } else { 0 };
        (kept * head_dim) as u64 + weights
    }
}
