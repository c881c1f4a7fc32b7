//! Scaled dot-product attention over a packed batch: its rectangles are the only place with padding.
//!
//! On GPUs, all sequences are one call of libtorch's variable-length kernels where these exist. Over rectangles,
//! libtorch's fused kernels compute attention, except on the CPU with dropout, with a sliding window, with shared key heads
//! and of half types: there an autograd function of our own (`cpu.cpp`) computes a few queries at a time and keeps only
//! its inputs. Within a window, scores and masks exist for a few queries and the keys of their windows. A bias needs
//! all scores.

mod cost;
mod fused;
mod mask;

pub use cost::Around;
pub use fused::joined;
pub use mask::Mask;

use self::fused::{fused, fused_within};
use super::{done, dropout, linear};
use crate::data::ragged::{Bucket, Sequences};
use crate::ffi;
use tch::{Device, Kind, Tensor};

/// The shape of an attention and its dropout.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConfig {
    pub heads: i64,
    /// Number of key/value heads, each shared by `heads / kv_heads` query heads (grouped-query attention, arXiv
    /// 2305.13245).
    pub kv_heads: i64,
    pub head_dim: i64,
    pub scale: f64,
    /// Dropout on the attention weights, in training.
    pub dropout: f64,
    pub mask: Mask,
}

/// Bias added to the scaled scores of a bucket before the softmax: `[1 or sequences, 1 or heads, queries, keys]`, with
/// queries and keys as wide as the bucket's rectangle.
pub type Bias<'a> = &'a dyn Fn(&Bucket) -> Tensor;

/// Whether sequences may be attended to without rectangles: on GPUs.
pub fn has_packed(x: &Tensor) -> bool {
    x.device().is_cuda()
}

/// Computes attention of packed sequences to themselves in one call, without padding and masks: `qkv` as in
/// [`crate::nn::attention::self_attention`]. `None` if libtorch's kernels do not exist for this GPU, dtype and size of
/// heads.
pub fn packed(
    config: &AttentionConfig,
    qkv: &Tensor,
    sequences: &Sequences,
    drops: Option<(f64, u64)>,
) -> Option<Tensor> {
    let AttentionConfig { heads, kv_heads, head_dim, scale, mask, .. } = *config;
    let counts = [heads, kv_heads, kv_heads];
    let parts = qkv.split_with_sizes(counts.map(|n| n * head_dim), 1);
    let [q, k, v] = [0, 1, 2].map(|i| parts[i].view([-1, counts[i], head_dim]));
    let longest = sequences.lengths().iter().copied().max().unwrap_or_default();
    let masked = (mask.is_causal(), mask.window().filter(|&window| window < longest).unwrap_or(0));
    drops.inspect(|&(_, key)| dropout::seed(key));
    let p = drops.map_or(0.0, |(p, _)| p);
    let out = ffi::kernels::varlen_attention([&q, &k, &v], sequences.cu_seqlens(), longest, p, masked, scale);
    done(out, "attention", qkv).map(|out| out.flatten(1, 2))
}

/// Computes one rectangle: rows `[sequences * longest, ..]` of queries, keys and values (keys and values possibly
/// `[sequences, longest, ..]`) to `[tokens, heads * head_dim]`. The dropout on the attention weights is (p, key).
pub fn attend(
    config: &AttentionConfig,
    rows: [&Tensor; 3],
    bucket: &Bucket,
    bias: Option<Bias>,
    drops: Option<(f64, u64)>,
) -> Tensor {
    let AttentionConfig { heads, kv_heads, head_dim, scale, mask, .. } = *config;
    let (n, queries, keys) = (bucket.sequences, bucket.queries.longest, bucket.keys().longest);
    let split = |x: &Tensor, longest, heads| x.view([n, longest, heads, head_dim]).transpose(1, 2);
    let shares = heads / kv_heads;
    // In decoding, the query heads that share a key head are treated as several queries of one head.
    let together = bucket.has_past() && bias.is_none();
    let q = if together { rows[0].view([n, kv_heads, shares, head_dim]) } else { split(rows[0], queries, heads) };
    let causal = mask.is_causal();
    let windowed = mask.window().is_some_and(|window| window < keys);
    let padding = bucket.padded_keys(causal).map(Tensor::shallow_clone);
    // A single query, the last one, attends to all keys, or to those of its window.
    let is_masked = (causal && queries > 1) || windowed;
    let shared = causal && shares > 1 && !together;
    let own_kernel =
        q.device() == Device::Cpu && bias.is_none() && (drops.is_some() || windowed || shared || linear::on_cpu(&q));
    let [k, v] = [rows[1], rows[2]].map(|x| {
        let own = split(x, keys, kv_heads);
        if own_kernel || together || shares == 1 { own } else { own.repeat_interleave_self_int(shares, 1, None) }
    });
    let plain_causal = is_masked && bias.is_none() && !windowed;
    // On the CPU the own kernel computes windows.
    let in_bands = mask.window().filter(|_| windowed && !causal && bias.is_none() && !own_kernel);
    let own_mask = is_masked && !plain_causal && !(own_kernel && queries > 1) && in_bands.is_none();
    let masks = [padding, own_mask.then(|| mask.tensor([queries, keys], keys - queries, q.device()))];
    let mask_sum = masks.into_iter().flatten().reduce(|a, b| a + b);
    let out = if let Some(bias) = bias.map(|bias| bias(bucket)) {
        let bias = mask_sum.map_or_else(|| bias.shallow_clone(), |mask| &bias + mask.to_kind(bias.kind()));
        with_bias([&q, &k, &v], &bias, scale, drops)
    } else if own_kernel {
        let in_kernel = is_masked && queries > 1;
        let masked = (causal && in_kernel, mask.window().filter(|_| in_kernel).unwrap_or(0));
        let mask = mask_sum.map(|mask| mask.view([-1, 1, 1, keys]));
        let out = ffi::ops::attention([&q, &k, &v], mask.as_ref(), scale, masked, drops);
        done(out, "attention", &q)
    } else if let Some(window) = in_bands {
        fused_within(window, [&q, &k, &v], mask_sum.as_ref(), scale, drops)
    } else {
        let mask = mask_sum.map(|mask| mask.to_kind(q.kind()));
        fused([&q, &k, &v], mask.as_ref(), plain_causal && mask.is_none(), scale, drops)
    };
    let out = if together { out } else { out.transpose(1, 2) };
    bucket.queries.tokens_of(out.reshape([n * queries, heads * head_dim]))
}

/// Computes attention with a learned bias. Half tensors on the CPU are computed in fp32 and rounded once.
fn with_bias(qkv: [&Tensor; 3], bias: &Tensor, scale: f64, drops: Option<(f64, u64)>) -> Tensor {
    let kind = qkv[0].kind();
    let inner = if linear::on_cpu(qkv[0]) { Kind::Float } else { kind };
    let [q, k, v] = qkv.map(|x| x.to_kind(inner));
    let scores = (q * scale).matmul(&k.transpose(-2, -1)) + bias.to_kind(inner);
    let weights = scores.softmax(-1, inner);
    let weights = drops.map_or(weights.shallow_clone(), |(p, key)| dropout::dropout(weights, p, key));
    weights.matmul(&v).to_kind(kind)
}

#[cfg(test)]
mod tests;
