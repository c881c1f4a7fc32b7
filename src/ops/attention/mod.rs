//! Scaled dot-product attention over a packed batch: its rectangles are the only place with padding.
//!
//! On GPUs, all sequences are one call of libtorch's variable-length kernels where these exist. Over rectangles,
//! libtorch's fused kernels compute attention, except on the CPU with dropout, with a sliding window, with shared key heads
//! and of half types: there an autograd function of our own (`cpu.cpp`) computes a few queries at a time and keeps only
//! its inputs. A bias needs all scores.

mod cost;

pub use cost::Around;

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

/// The attention mask within a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    Bidirectional,
    /// Causal: a query attends to its own position and earlier ones.
    Causal,
    /// Causal within a sliding window of this many positions (arXiv 2004.05150; Mistral's `sliding_window`).
    SlidingWindow(i64),
}

/// Bias added to the scaled scores of a bucket before the softmax: `[1 or sequences, 1 or heads, queries, keys]`, with
/// queries and keys as wide as the bucket's rectangle.
pub type Bias<'a> = &'a dyn Fn(&Bucket) -> Tensor;

/// Concatenates tensors; a single one is not copied.
pub fn joined(mut parts: Vec<Tensor>) -> Tensor {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
}

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
    let window = if let Mask::SlidingWindow(window) = mask { window } else { 0 };
    let masked = (mask != Mask::Bidirectional, window);
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
    let causal = mask != Mask::Bidirectional;
    let windowed = is_windowed(mask, keys);
    let padding = bucket.padded_keys(causal).map(Tensor::shallow_clone);
    // A single query, the last one, attends to all keys, or to those of its window.
    let is_masked = causal && (queries > 1 || windowed);
    let shared = causal && shares > 1 && !together;
    let own_kernel =
        q.device() == Device::Cpu && bias.is_none() && (drops.is_some() || windowed || shared || linear::on_cpu(&q));
    let [k, v] = [rows[1], rows[2]].map(|x| {
        let own = split(x, keys, kv_heads);
        if own_kernel || together || shares == 1 { own } else { own.repeat_interleave_self_int(shares, 1, None) }
    });
    let plain_causal = is_masked && bias.is_none() && !windowed;
    let own_mask = is_masked && !plain_causal && !(own_kernel && queries > 1);
    let masks = [padding, own_mask.then(|| mask_tensor(mask, queries, keys, q.device()))];
    let mask_sum = masks.into_iter().flatten().reduce(|a, b| a + b);
    let out = if let Some(bias) = bias.map(|bias| bias(bucket)) {
        let bias = mask_sum.map_or_else(|| bias.shallow_clone(), |mask| &bias + mask.to_kind(bias.kind()));
        with_bias([&q, &k, &v], &bias, scale, drops)
    } else if own_kernel {
        let window = if let Mask::SlidingWindow(window) = mask { window } else { 0 };
        let mask = mask_sum.map(|mask| mask.view([-1, 1, 1, keys]));
        let out = ffi::ops::attention([&q, &k, &v], mask.as_ref(), scale, (is_masked && queries > 1, window), drops);
        done(out, "attention", &q)
    } else {
        let mask = mask_sum.map(|mask| mask.to_kind(q.kind()));
        let fused = |[q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, dropout: f64| {
            Tensor::scaled_dot_product_attention(q, k, v, mask, dropout, plain_causal && mask.is_none(), scale, false)
        };
        match drops {
            None => fused([&q, &k, &v], mask.as_ref(), 0.0),
            Some((p, key)) => {
                let mut keys_of_parts = key..;
                in_parts(parts(n, heads * queries * keys), [&q, &k, &v], mask.as_ref(), |qkv, mask| {
                    dropout::seed(keys_of_parts.next().unwrap_or(key));
                    fused(qkv, mask, p)
                })
            }
        }
    };
    let out = if together { out } else { out.transpose(1, 2) };
    bucket.queries.tokens_of(out.reshape([n * queries, heads * head_dim]))
}

/// Divides `n` sequences, each with this many scores, into parts that libtorch's fused kernels can compute with
/// dropout: (first, count). Their forward counts the scores in 32 bits and their backward in 64, so that with more
/// scores the masks differ (pytorch issue 188015); they also refuse more than 65,535 sequences.
fn parts(n: i64, scores: i64) -> impl Iterator<Item = (i64, i64)> {
    let most = (i64::from(i32::MAX) / scores.max(1)).clamp(1, 65_535);
    (0..n).step_by(most as usize).map(move |start| (start, most.min(n - start)))
}

/// Computes attention over these parts of the sequences, each with its part of the mask.
fn in_parts(
    parts: impl Iterator<Item = (i64, i64)>,
    qkv: [&Tensor; 3],
    mask: Option<&Tensor>,
    mut attend: impl FnMut([&Tensor; 3], Option<&Tensor>) -> Tensor,
) -> Tensor {
    let attend = |(start, n)| {
        let part = |x: &Tensor| x.narrow(0, start, n);
        // A mask shared by all sequences is `[queries, keys]`; a padding mask has a row per sequence.
        let mask = mask.map(|x| if x.dim() == 4 && x.size()[0] > 1 { part(x) } else { x.shallow_clone() });
        attend(qkv.map(part).each_ref(), mask.as_ref())
    };
    joined(parts.map(attend).collect())
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

/// Returns whether the mask excludes earlier tokens for some query of a sequence of this length.
fn is_windowed(mask: Mask, keys: i64) -> bool {
    matches!(mask, Mask::SlidingWindow(window) if window < keys)
}

/// f32 `[queries, keys]`: 0 where a query attends to a key, minus infinity elsewhere. The last query is at the last
/// key's position.
fn mask_tensor(mask: Mask, queries: i64, keys: i64, device: Device) -> Tensor {
    let ones = Tensor::ones([queries, keys], (Kind::Bool, device));
    let seen = ones.tril(keys - queries);
    let seen = match mask {
        Mask::SlidingWindow(window) => seen.logical_and(&ones.triu(keys - queries - window + 1)),
        _ => seen,
    };
    Tensor::zeros([queries, keys], (Kind::Float, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}

#[cfg(test)]
mod tests;
