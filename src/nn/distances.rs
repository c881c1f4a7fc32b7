//! Attention scores that depend on the distance of two tokens, over the rectangles of a packed batch.

use crate::data::extent::Extent;
use crate::data::ragged::{Bucket, Sequences};
use crate::nn::attention::AttentionConfig;
use crate::ops::cost::{ComputeMode, Cost};
use tch::Tensor;

/// Returns the length of the longest sequence.
pub fn longest(sequences: &Sequences) -> i64 {
    sequences.buckets().iter().map(|bucket| bucket.queries.longest).max().unwrap_or_default()
}

/// Returns for each row i and column j of a bucket the score of the token at i and of the distance i - j: `[sequences,
/// heads, L, L]`, L the bucket's longest. The tokens' vectors are `[T, heads * head_dim]`; those of the distances are
/// `[2 * longest, heads * head_dim]`, from the distance `longest` of the batch down to `1 - longest`.
pub fn distance_scores(config: &AttentionConfig, bucket: &Bucket, tokens: &Tensor, distances: &Tensor) -> Tensor {
    let (n, longest) = (bucket.sequences, bucket.queries.longest);
    let distances = distances.narrow(0, distances.size()[0] / 2 - longest, 2 * longest);
    let heads = |x: &Tensor| x.view([-1, config.heads, config.head_dim]).transpose(0, 1);
    // All sequences share the distances: one matmul per head, `[heads, n * L, 2L]`.
    let scores = heads(&bucket.queries.rectangle(tokens)).matmul(&heads(&distances).transpose(1, 2));
    // Row i has column j at L - i + j: in rows that are one shorter and begin at L, at column j.
    let flat = scores.view([config.heads, n, 2 * longest * longest]);
    let shifted = flat.narrow(2, longest, longest * (2 * longest - 1)).view([config.heads, n, longest, -1]);
    shifted.narrow(3, 0, longest).transpose(0, 1)
}

/// Returns the cost of the sum of this many [`distance_scores`], without what they keep. There are twice as many scores
/// as pairs of tokens.
pub fn cost(how: &ComputeMode, config: &AttentionConfig, x: &Extent, terms: f64) -> Cost {
    let e = if how.widens() { 4.0 } else { how.element() };
    let (largest, width) = (e * config.heads as f64 * x.largest, (config.heads * config.head_dim) as f64);
    let flops = 4.0 * terms * x.pairs * width;
    Cost { flops, attention_flops: flops, ..Cost::op(0.0, 0.0, largest, [2.0 * terms * largest, 4.0 * largest]) }
}
