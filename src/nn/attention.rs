//! Attention over ragged batches. The one place where padding exists.

use crate::data::ragged::{Bucket, Sequences};
use crate::ffi;
use crate::nn::{Ctx, precision};
use tch::{Kind, Tensor};

/// The shape of an attention and its dropout.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConfig {
    pub heads: i64,
    pub head_dim: i64,
    /// The factor on the products of queries and keys.
    pub scale: f64,
    /// Dropout on the attention weights, in training.
    pub dropout: f64,
}

/// Scaled dot-product attention (arXiv 1706.03762, section 3.2.1), every token attending to all of its own sequence.
///
/// `qkv` is `[T, 3 * heads * head_dim]`: queries, keys and values side by side. Returns `[T, heads * head_dim]`.
/// A token's result does not depend on the other sequences of the batch.
///
/// # Panics
/// When `qkv` does not have T rows (libtorch's message names the sizes).
pub fn self_attention(ctx: &mut Ctx, config: &AttentionConfig, qkv: &Tensor, sequences: &Sequences) -> Tensor {
    let mut parts: Vec<Tensor> = sequences
        .buckets()
        .iter()
        .map(|bucket| {
            let tokens = bucket.tokens.end - bucket.tokens.start;
            attend(ctx, config, &qkv.narrow(0, bucket.tokens.start, tokens), bucket)
        })
        .collect();
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
}

/// One rectangle: `[tokens, 3 * heads * head_dim]` to `[tokens, heads * head_dim]`.
fn attend(ctx: &mut Ctx, config: &AttentionConfig, qkv: &Tensor, bucket: &Bucket) -> Tensor {
    let AttentionConfig { heads, head_dim, scale, dropout } = *config;
    let (n, longest) = (bucket.sequences, bucket.longest);
    let padding = bucket.padding.as_ref();
    let rectangle = padding.map(|p| qkv.index_select(0, &p.gather));
    let rectangle = rectangle.as_ref().unwrap_or(qkv);
    // Cut by columns: the three gradients are then joined once, not each filled up with zeros and added.
    let parts = rectangle.chunk(3, 1);
    let [q, k, v] = [0, 1, 2].map(|i| parts[i].view([n, longest, heads, head_dim]).transpose(1, 2));
    let mask = padding.map(|p| p.mask.to_kind(if precision::on_cpu(qkv) { Kind::Float } else { qkv.kind() }));
    let mask = mask.as_ref();
    let drops = ctx.is_train() && dropout > 0.0;
    let out = if precision::on_cpu(qkv) {
        // Short sequences make small products, which libtorch's half kernels do slower than fp32, AMX or not.
        let dropout = drops.then(|| (dropout, ctx.draw()));
        ffi::layers::half_attention([&q, &k, &v], mask, scale, dropout)
            .unwrap_or_else(|e| panic!("attention over {n} sequences of {longest} tokens: {e}"))
    } else if drops {
        let scores = (q * scale).matmul(&k.transpose(-2, -1));
        let scores = mask.map_or_else(|| scores.shallow_clone(), |mask| &scores + mask);
        let weights = ctx.dropout(scores.softmax(-1, scores.kind()), dropout);
        weights.matmul(&v)
    } else {
        Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, false, scale, false)
    };
    let out = out.transpose(1, 2).reshape([n * longest, heads * head_dim]);
    padding.map_or_else(|| out.shallow_clone(), |p| out.index_select(0, &p.scatter))
}
