//! Attention layers over packed batches: the KV cache, then the operation for each rectangle.

use crate::data::ragged::{Bucket, Sequences};
use crate::nn::Ctx;
pub use crate::ops::attention::{AttentionConfig, Bias, Mask};
use crate::ops::attention::{attend, has_packed, joined, packed};
use tch::Tensor;

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
    sequences: &Sequences,
    bias: Option<Bias>,
) -> Tensor {
    let AttentionConfig { heads, kv_heads, head_dim, .. } = *config;
    let widths = [heads, kv_heads, kv_heads].map(|n| n * head_dim);
    let buckets = sequences.buckets();
    if ctx.has_cache() {
        let parts = qkv.split_with_sizes(widths, 1);
        return attention(ctx, config, [&parts[0], &parts[1], &parts[2]], buckets, bias);
    }
    if bias.is_none() && has_packed(qkv) {
        let drops = ctx.drops(config.dropout);
        if let Some(attended) = packed(config, qkv, sequences, drops) {
            return attended;
        }
    }
    over(buckets, |bucket| {
        // Split by columns: the three gradients are concatenated once, instead of being zero-padded and added.
        let parts = bucket.queries.rectangle(qkv).split_with_sizes(widths, 1);
        attend(config, [&parts[0], &parts[1], &parts[2]], bucket, bias, ctx.drops(config.dropout))
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
            Some([k, v]) => attend(config, [&q, k, v], bucket, bias, ctx.drops(config.dropout)),
            None => {
                let [k, v] = [k, v].map(|x| bucket.keys().rectangle(x));
                attend(config, [&q, &k, &v], bucket, bias, ctx.drops(config.dropout))
            }
        }
    })
}

/// Concatenates the results of all buckets.
fn over(buckets: &[Bucket], attend: impl FnMut(&Bucket) -> Tensor) -> Tensor {
    joined(buckets.iter().map(attend).collect())
}
