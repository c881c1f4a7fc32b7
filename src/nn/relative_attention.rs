//! Attention with relative positions and relative segments.

use crate::data::extent::Extent;
use crate::data::ragged::{Bucket, Sequences};
use crate::nn::attention::{AttentionConfig, attention};
use crate::nn::distances::{self, distance_scores};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use crate::ops::attention::Around;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::linear;
use tch::{Kind, Tensor};

/// Configuration of a [`RelativeAttention`].
#[derive(Debug, Clone, Copy)]
pub struct RelativeAttentionConfig {
    pub hidden: i64,
    /// The total width of the heads is `hidden`.
    pub attention: AttentionConfig,
    /// Maximum distance; larger distances are clamped.
    pub farthest: Option<i64>,
    /// Dropout on the sinusoids.
    pub dropout: f64,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
}

/// Relative attention (arXiv 1901.02860, section 3.3) with relative segments (arXiv 1906.08237, section 2.5). The score
/// of the query at i and the key at j is, times the scale, `(q_i + u) k_j + (q_i + v) R_(i-j) + (q_i + w) s_ij`: R is a
/// projection of the distance's sinusoids, s one of two vectors, for a key of the same segment and of another.
#[derive(Debug)]
pub struct RelativeAttention {
    config: RelativeAttentionConfig,
    qkv: Linear,
    distances: Linear,
    out: Linear,
    content_bias: ParamId,
    distance_bias: ParamId,
    segment_bias: ParamId,
    segments: ParamId,
}

impl RelativeAttention {
    /// Declares queries, keys and values as one matrix `[3 * hidden, hidden]`, the projection of the sinusoids
    /// `[hidden, hidden]`, the biases u, v and w `[hidden]`, the vectors s `[2, hidden]`, and the output matrix
    /// `[hidden, hidden]`.
    pub fn new(b: &mut ParamBuilder, config: RelativeAttentionConfig) -> Self {
        let RelativeAttentionConfig { hidden, std, .. } = config;
        let init = Init::Normal { std };
        RelativeAttention {
            config,
            qkv: Linear::without_bias(b, "qkv", hidden, 3 * hidden, std),
            distances: Linear::without_bias(b, "distances", hidden, hidden, std),
            out: Linear::without_bias(b, "out", hidden, hidden, std),
            content_bias: b.vector("content_bias", hidden, init),
            distance_bias: b.vector("distance_bias", hidden, init),
            segment_bias: b.vector("segment_bias", hidden, init),
            segments: b.weight("segments", &[2, hidden], init),
        }
    }

    /// `[T, hidden]` to `[T, hidden]`; `segments`, i64 `[T]`, are only compared.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences, segments: &Tensor) -> Tensor {
        let RelativeAttentionConfig { hidden, attention: config, farthest, dropout, .. } = self.config;
        let qkv = self.qkv.forward(ctx, x).split(hidden, 1);
        let [q, k, v] = [&qkv[0], &qkv[1], &qkv[2]];
        // Half tensors on the CPU are computed in fp32, as attention does with a bias.
        let kind = if linear::on_cpu(x) { Kind::Float } else { x.kind() };

        let longest = distances::longest(sequences);
        // One dropout mask for all sequences; transformers samples one per sequence, once for all layers.
        let sinusoids = ctx.dropout(sinusoids(longest, farthest, x, hidden), dropout);
        let distances = self.distances.forward(ctx, &sinusoids).to_kind(kind);
        let by_distance = ((q + ctx.param(self.distance_bias)) * config.scale).to_kind(kind);

        // Softmax is invariant to a constant over all keys: only the difference of the segment vectors matters.
        let vectors = ctx.param(self.segments);
        let other = vectors.get(1) - vectors.get(0);
        let by_segment = (q + ctx.param(self.segment_bias)) * other * config.scale;
        let by_segment = by_segment.view([-1, config.heads, config.head_dim]).sum_dim_intlist(2, false, kind);

        let bias = |bucket: &Bucket| {
            let scores = distance_scores(&config, bucket, &by_distance, &distances);
            scores.addcmul(&others(bucket, segments).to_kind(kind), &to_keys(bucket, &by_segment))
        };
        let q = q + ctx.param(self.content_bias);
        let attended = attention(ctx, &config, [&q, k, v], sequences.buckets(), Some(&bias));
        self.out.forward(ctx, &attended)
    }

    /// Returns the cost of the layer over these sequences; other parts keep its input. Beside the biased kernel, it
    /// counts the queries of the three matmuls, the scores of distances (twice as many as pairs), and the segment
    /// mask.
    pub fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        let RelativeAttentionConfig { hidden, attention, .. } = self.config;
        let numbers = x.tokens * hidden as f64;
        let e = if how.widens() { 4.0 } else { how.element() };
        let queries = Cost::op(e * (2.0 * numbers + x.pairs), 3.0 * e * numbers, 2.0 * e * numbers, [e * numbers; 2]);
        // The sinusoids of all distances and their projection.
        let sinusoids = linear::cost(how, 2.0 * x.longest, [hidden, hidden], true);
        let projected = Cost::keep(e * 2.0 * x.longest * hidden as f64);
        let distances = distances::cost(how, &attention, x, 1.0);
        let kernel = attention.cost(how, x, Around::Biased);
        let parts = [self.qkv.cost(how, x.tokens, false), sinusoids, projected, queries, distances, kernel];
        parts.into_iter().chain([self.out.cost(how, x.tokens, true)]).sum()
    }
}

/// Returns the sinusoids of the distances `longest` down to `1 - longest` (arXiv 1901.02860, appendix A; sines first,
/// then cosines): `[2 * longest, width]` of the dtype of `like`. Distances beyond `farthest` are clamped.
fn sinusoids(longest: i64, farthest: Option<i64>, like: &Tensor, width: i64) -> Tensor {
    let options = (Kind::Float, like.device());
    let distances = Tensor::arange_start_step(longest, -longest, -1, options);
    let distances = farthest.map_or(distances.shallow_clone(), |n| distances.clamp(-n, n));
    let exponents = Tensor::arange_start_step(0, width, 2, options) / width as f64;
    let angles = distances.unsqueeze(1) * Tensor::pow_scalar(10000.0, &exponents).reciprocal();
    Tensor::cat(&[angles.sin(), angles.cos()], 1).to_kind(like.kind())
}

/// Bool `[sequences, 1, L, L]`: whether query and key have different segments, from segments `[T]`.
fn others(bucket: &Bucket, segments: &Tensor) -> Tensor {
    let rows = bucket.queries.rectangle(segments).view([bucket.sequences, 1, bucket.queries.longest]);
    rows.unsqueeze(3).not_equal_tensor(&rows.unsqueeze(2))
}

/// Per-query terms `[T, heads]` for a bucket: `[sequences, heads, L, 1]`.
fn to_keys(bucket: &Bucket, values: &Tensor) -> Tensor {
    let rows = bucket.queries.rectangle(values).view([bucket.sequences, bucket.queries.longest, -1]);
    rows.transpose(1, 2).unsqueeze(3)
}
