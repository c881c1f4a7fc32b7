//! libtorch's fused kernels over rectangles, in parts where they cannot compute all at once.

use super::mask::Mask;
use crate::ops::dropout;
use tch::Tensor;

/// Queries that attend within a bidirectional window at a time, at least; four windows if that is more.
pub(super) const BAND: i64 = 256;

/// Concatenates tensors; a single one is not copied.
pub fn joined(mut parts: Vec<Tensor>) -> Tensor {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
}

/// Computes attention of q `[n, heads, queries, head_dim]` to k and v `[n, heads, keys, head_dim]`: `causal`, or with
/// an additive mask `[queries, keys]` or `[n, 1, .., keys]`. The dropout on the attention weights is (p, key).
pub(super) fn fused(
    qkv: [&Tensor; 3],
    mask: Option<&Tensor>,
    causal: bool,
    scale: f64,
    drops: Option<(f64, u64)>,
) -> Tensor {
    let attend = |[q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, dropout: f64| {
        Tensor::scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale, false)
    };
    let Some((p, key)) = drops else { return attend(qkv, mask, 0.0) };
    let mut keys_of_parts = key..;
    let size = qkv[0].size();
    let parts = parts(size[0], size[1] * size[2] * qkv[1].size()[2]);
    in_parts(parts, qkv, mask, |qkv, mask| {
        dropout::seed(keys_of_parts.next().unwrap_or(key));
        attend(qkv, mask, p)
    })
}

/// Computes attention of sequences to themselves within a bidirectional window: a few queries at a time, with the keys
/// within their windows, so that masks grow with length times window. `padding` is f32 `[n, 1, 1, length]`.
pub(super) fn fused_within(
    window: i64,
    [q, k, v]: [&Tensor; 3],
    padding: Option<&Tensor>,
    scale: f64,
    drops: Option<(f64, u64)>,
) -> Tensor {
    let (length, at_a_time) = (q.size()[2], BAND.max(4 * window));
    let band = |start: i64| {
        let end = length.min(start + at_a_time);
        let (first, last) = ((start - window + 1).max(0), length.min(end + window - 1));
        let [k, v] = [k, v].map(|x| x.narrow(2, first, last - first));
        let own = Mask::BidirectionalWindow(window).tensor([end - start, last - first], start - first, q.device());
        // Finite: a place of padding may have no real key within its window, and a row without any would be NaN.
        let mask = padding.map_or_else(
            || own.shallow_clone(),
            |padding| (&own + padding.narrow(3, first, last - first)).clamp_min(-6e4),
        );
        let drops = drops.map(|(p, key)| (p, key.wrapping_add((start as u64) << 32)));
        fused([&q.narrow(2, start, end - start), &k, &v], Some(&mask.to_kind(q.kind())), false, scale, drops)
    };
    Tensor::cat(&(0..length).step_by(at_a_time as usize).map(band).collect::<Vec<_>>(), 2)
}

/// Divides `n` sequences, each with this many scores, into parts that libtorch's fused kernels can compute with
/// dropout: (first, count). Their forward counts the scores in 32 bits and their backward in 64, so that with more
/// scores the masks differ (pytorch issue 188015); they also refuse more than 65,535 sequences.
pub(super) fn parts(n: i64, scores: i64) -> impl Iterator<Item = (i64, i64)> {
    let most = (i64::from(i32::MAX) / scores.max(1)).clamp(1, 65_535);
    (0..n).step_by(most as usize).map(move |start| (start, most.min(n - start)))
}

/// Computes attention over these parts of the sequences, each with its part of the mask.
pub(super) fn in_parts(
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
