//! Attention over packed batches: the only place with padding.

use crate::data::ragged::Bucket;
use crate::ffi;
use crate::nn::{Ctx, precision};
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

/// Scaled dot-product attention (arXiv 1706.03762, section 3.2.1) of each sequence to itself.
///
/// `qkv` is `[T, (heads + 2 * kv_heads) * head_dim]`: queries, keys and values side by side. Returns `[T, heads *
/// head_dim]`. A token's result does not depend on the other sequences of the batch. In generation, the keys include
/// those of the KV cache ([`crate::nn::cache`]).
///
/// # Panics
/// If `qkv` does not have T rows (libtorch's message has the sizes).
pub fn self_attention(
    ctx: &mut Ctx,
    config: &AttentionConfig,
    qkv: &Tensor,
    buckets: &[Bucket],
    bias: Option<Bias>,
) -> Tensor {
    let AttentionConfig { heads, kv_heads, head_dim, .. } = *config;
    let widths = [heads, kv_heads, kv_heads].map(|n| n * head_dim);
    if ctx.has_cache() {
        let parts = qkv.split_with_sizes(widths, 1);
        return attention(ctx, config, [&parts[0], &parts[1], &parts[2]], buckets, bias);
    }
    over(buckets, |bucket| {
        // Split by columns: the three gradients are concatenated once, instead of being zero-padded and added.
        let parts = bucket.queries.rectangle(qkv).split_with_sizes(widths, 1);
        attend(ctx, config, [&parts[0], &parts[1], &parts[2]], bucket, bias)
    })
}

/// Attention with separate queries, keys and values: `q` `[Tq, heads * head_dim]`, `k` and `v` `[Tk, kv_heads *
/// head_dim]`. Returns `[Tq, heads * head_dim]`.
///
/// # Panics
/// As [`self_attention`].
pub fn attention(
    ctx: &mut Ctx,
    config: &AttentionConfig,
    [q, k, v]: [&Tensor; 3],
    buckets: &[Bucket],
    bias: Option<Bias>,
) -> Tensor {
    let cached = ctx.update_cache([k, v], buckets);
    over(buckets, |bucket| {
        let q = bucket.queries.rectangle(q);
        match &cached {
            Some([k, v]) => attend(ctx, config, [&q, k, v], bucket, bias),
            None => {
                let [k, v] = [k, v].map(|x| bucket.keys().rectangle(x));
                attend(ctx, config, [&q, &k, &v], bucket, bias)
            }
        }
    })
}

/// Concatenates the results of all buckets.
fn over(buckets: &[Bucket], attend: impl FnMut(&Bucket) -> Tensor) -> Tensor {
    joined(buckets.iter().map(attend).collect())
}

/// Concatenates tensors; a single one is not copied.
fn joined(mut parts: Vec<Tensor>) -> Tensor {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
}

/// Computes one rectangle: rows `[sequences * longest, ..]` of queries, keys and values (keys and values possibly
/// `[sequences, longest, ..]`) to `[tokens, heads * head_dim]`.
fn attend(ctx: &mut Ctx, config: &AttentionConfig, rows: [&Tensor; 3], bucket: &Bucket, bias: Option<Bias>) -> Tensor {
    let AttentionConfig { heads, kv_heads, head_dim, scale, dropout, mask } = *config;
    let (n, queries, keys) = (bucket.sequences, bucket.queries.longest, bucket.keys().longest);
    let split = |x: &Tensor, longest, heads| x.view([n, longest, heads, head_dim]).transpose(1, 2);
    let shares = heads / kv_heads;
    // In decoding, the query heads that share a key head are treated as several queries of one head.
    let together = bucket.has_past() && bias.is_none();
    let q = if together { rows[0].view([n, kv_heads, shares, head_dim]) } else { split(rows[0], queries, heads) };
    let [k, v] = [rows[1], rows[2]].map(|x| {
        let own = split(x, keys, kv_heads);
        if together || shares == 1 { own } else { own.repeat_interleave_self_int(shares, 1, None) }
    });
    let half = precision::on_cpu(&q);
    let causal = mask != Mask::Bidirectional;
    let padding = bucket.padded_keys(causal).map(Tensor::shallow_clone);
    // A single query, the last one, attends to all keys.
    let is_masked = causal && (queries > 1 || is_windowed(mask, keys));
    let plain_causal = is_masked && bias.is_none() && !is_windowed(mask, keys);
    let drops = ctx.is_train() && dropout > 0.0;
    // On a GPU libtorch's fused kernels apply dropout; on the CPU the attention weights are tensors, with the program's
    // own dropout.
    let own_mask = is_masked && (!plain_causal || half || drops && q.device() == Device::Cpu);
    let masks = [padding, own_mask.then(|| mask_tensor(mask, queries, keys, q.device()))];
    let mask = masks.into_iter().flatten().reduce(|a, b| a + b);
    let to_kind = |mask: Tensor| if half { mask } else { mask.to_kind(q.kind()) };
    let mask = mask.map(to_kind);
    let out = match bias.map(|bias| bias(bucket)) {
        Some(bias) => {
            let bias = mask.map_or_else(|| bias.shallow_clone(), |mask| &bias + mask);
            with_bias(ctx, [&q, &k, &v], &bias, scale, if drops { dropout } else { 0.0 })
        }
        None if half => {
            // For small matmuls of short sequences, libtorch's half kernels are slower than fp32, even with AMX.
            let dropout = drops.then(|| (dropout, ctx.next_key()));
            ffi::layers::half_attention([&q, &k, &v], mask.as_ref(), scale, dropout)
                .unwrap_or_else(|e| panic!("attention over {n} sequences of {keys} tokens: {e}"))
        }
        None if drops && q.device() == Device::Cpu => {
            let scores = (&q * scale).matmul(&k.transpose(-2, -1));
            let scores = mask.map_or_else(|| scores.shallow_clone(), |mask| &scores + mask);
            let weights = ctx.dropout(scores.softmax(-1, scores.kind()), dropout);
            weights.matmul(&v)
        }
        None => {
            let causal = mask.is_none() && plain_causal;
            let fused = |[q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, dropout: f64| {
                Tensor::scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale, false)
            };
            match drops {
                false => fused([&q, &k, &v], mask.as_ref(), 0.0),
                true => in_parts(parts(n, heads * queries * keys), [&q, &k, &v], mask.as_ref(), |qkv, mask| {
                    ctx.seed_device();
                    fused(qkv, mask, dropout)
                }),
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
fn with_bias(ctx: &mut Ctx, qkv: [&Tensor; 3], bias: &Tensor, scale: f64, dropout: f64) -> Tensor {
    let kind = qkv[0].kind();
    let inner = if precision::on_cpu(qkv[0]) { Kind::Float } else { kind };
    let [q, k, v] = qkv.map(|x| x.to_kind(inner));
    let scores = (q * scale).matmul(&k.transpose(-2, -1)) + bias.to_kind(inner);
    let weights = ctx.dropout(scores.softmax(-1, inner), dropout);
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
mod tests {
    use super::*;

    #[test]
    fn scores_of_a_call_are_counted_in_32_bits() {
        assert_eq!(parts(4, 12 * 128 * 128).collect::<Vec<_>>(), [(0, 4)]);
        assert_eq!(parts(5, 1 << 30).collect::<Vec<_>>(), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!(parts(3, (1 << 30) - 1).collect::<Vec<_>>(), [(0, 2), (2, 1)]);
        assert_eq!(parts(70_000, 1).collect::<Vec<_>>(), [(0, 65_535), (65_535, 4465)]);
    }

    /// With a shared mask, a padding mask, both, and none.
    #[test]
    fn parts_have_their_part_of_the_mask() {
        let (n, queries) = (5, 3);
        let float = (Kind::Float, Device::Cpu);
        let [q, k, v] =
            [0, 1, 2].map(|i| (Tensor::arange(n * 2 * queries * 4, float) + i).sin().view([n, 2, queries, 4]));
        let shared = mask_tensor(Mask::SlidingWindow(2), queries, queries, Device::Cpu);
        let padding = Tensor::arange(n * queries, float).cos().view([n, 1, 1, queries]);
        for mask in [None, Some(&shared), Some(&padding), Some(&(&shared + &padding))] {
            let attend = |[q, k, v]: [&Tensor; 3], mask: Option<&Tensor>| {
                Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, false, None, false)
            };
            let wanted = attend([&q, &k, &v], mask);
            let found = in_parts([(0, 2), (2, 2), (4, 1)].into_iter(), [&q, &k, &v], mask, attend);
            assert!((found - wanted).abs().max().double_value(&[]) < 1e-6, "{mask:?}");
        }
    }
}
