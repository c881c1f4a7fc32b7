use super::*;
use crate::data::ragged::Sequences;
use crate::ops::testing::{compare, mask, noise};

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
    let [q, k, v] = [0, 1, 2].map(|i| (Tensor::arange(n * 2 * queries * 4, float) + i).sin().view([n, 2, queries, 4]));
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

/// Attention in fp64 with all scores: lengths of one sequence after another, a window, shared key heads, a bias and the
/// mask of a keyed dropout.
fn plain(
    config: &AttentionConfig,
    qkv: &Tensor,
    bucket: &Bucket,
    lengths: &[i64],
    drops: Option<(f64, u64)>,
) -> Tensor {
    let AttentionConfig { heads, kv_heads, head_dim, scale, mask: kind, .. } = *config;
    let longest = bucket.queries.longest;
    let size = [lengths.len() as i64, heads, longest, longest];
    let weights_mask = drops.map(|(p, key)| mask(&size, p, key));
    let mut start = 0;
    let sequence = |(i, &n): (usize, &i64)| {
        let rows = qkv.narrow(0, start, n);
        start += n;
        let parts = rows.split_with_sizes([heads, kv_heads, kv_heads].map(|n| n * head_dim), 1);
        let of = |part: usize, count: i64| parts[part].view([n, count, head_dim]).transpose(0, 1);
        let share = |x: Tensor| x.repeat_interleave_self_int(heads / kv_heads, 0, None);
        let (q, k, v) = (of(0, heads), share(of(1, kv_heads)), share(of(2, kv_heads)));
        let scores = (q * scale).matmul(&k.transpose(1, 2));
        let scores = match kind {
            Mask::Bidirectional => scores,
            _ => scores + mask_tensor(kind, n, n, Device::Cpu).to_kind(Kind::Double),
        };
        let weights = scores.softmax(-1, Kind::Double);
        let own = |m: &Tensor| m.get(i as i64).narrow(1, 0, n).narrow(2, 0, n);
        let weights = weights_mask.as_ref().map_or(weights.shallow_clone(), |m| &weights * own(m));
        weights.matmul(&v).transpose(0, 1).reshape([n, heads * head_dim])
    };
    Tensor::cat(&lengths.iter().enumerate().map(sequence).collect::<Vec<_>>(), 0)
}

/// Unequal lengths, a single token, lengths above a block of queries; windows, shared key heads, dropout.
#[test]
fn attention_is_its_formula() {
    for lengths in [vec![1], vec![5, 4, 5, 3], vec![7, 7], vec![300, 290]] {
        let sequences = Sequences::new(lengths.clone());
        let [bucket] = sequences.buckets() else { panic!("one bucket") };
        let tokens: i64 = lengths.iter().sum();
        for (heads, kv_heads) in [(2, 2), (4, 2)] {
            for mask in [Mask::Bidirectional, Mask::Causal, Mask::SlidingWindow(3), Mask::SlidingWindow(270)] {
                for drops in [None, Some((0.3, 21))] {
                    let config = AttentionConfig { heads, kv_heads, head_dim: 4, scale: 0.7, dropout: 0.0, mask };
                    let x = noise(&[tokens, (heads + 2 * kv_heads) * 4], 1, Kind::Float);
                    let own = |x: &[Tensor]| {
                        let parts = bucket
                            .queries
                            .rectangle(&x[0])
                            .split_with_sizes([heads, kv_heads, kv_heads].map(|n| n * 4), 1);
                        vec![attend(&config, [&parts[0], &parts[1], &parts[2]], bucket, None, drops)]
                    };
                    let formula = |x: &[Tensor]| vec![plain(&config, &x[0], bucket, &lengths, drops)];
                    compare(&format!("{lengths:?}, {heads} heads, {mask:?}, {drops:?}"), &[x], own, formula);
                }
            }
        }
    }
}
