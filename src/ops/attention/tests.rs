use super::fused::{in_parts, parts};
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
    let shared = Mask::SlidingWindow(2).tensor([queries, queries], 0, Device::Cpu);
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

/// Windows: within a block of queries, of a few tokens beside it, and larger than a block.
const MASKS: [Mask; 8] = [
    Mask::Bidirectional,
    Mask::Causal,
    Mask::SlidingWindow(3),
    Mask::SlidingWindow(270),
    Mask::BidirectionalWindow(1),
    Mask::BidirectionalWindow(3),
    Mask::BidirectionalWindow(65),
    Mask::BidirectionalWindow(270),
];

#[test]
fn masks_are_their_definitions() {
    for mask in MASKS {
        for (queries, keys, start) in [(5, 5, 0), (280, 280, 0), (1, 6, 5), (4, 9, 2)] {
            let found = mask.tensor([queries, keys], start, Device::Cpu);
            let found: Vec<Vec<f32>> = Vec::try_from(&found).unwrap();
            for (i, row) in (start..).zip(&found) {
                for (j, &added) in (0i64..).zip(row) {
                    let attends = match mask {
                        Mask::Bidirectional => true,
                        Mask::Causal => j <= i,
                        Mask::SlidingWindow(window) => j <= i && i - j < window,
                        Mask::BidirectionalWindow(window) => (i - j).abs() < window,
                    };
                    assert_eq!(added, if attends { 0.0 } else { f32::NEG_INFINITY }, "{mask:?}: query {i}, key {j}");
                }
            }
        }
    }
}

/// A window by libtorch's kernels, in bands and at once, also where a place of padding has no key.
#[test]
fn bands_are_the_whole_attention() {
    let lengths = [600, 550];
    let sequences = Sequences::new(lengths.to_vec());
    let [bucket] = sequences.buckets() else { panic!("one bucket") };
    let rectangle = bucket.queries.rectangle(&noise(&[lengths.iter().sum::<i64>(), 3 * 8], 1, Kind::Float));
    let parts = rectangle.view([2, 600, 6, 4]).transpose(1, 2).split(2, 1);
    let qkv = [&parts[0], &parts[1], &parts[2]];
    for window in [3, 65, 270] {
        let whole = Mask::BidirectionalWindow(window).tensor([600, 600], 0, Device::Cpu);
        let padding = bucket.padded_keys(false).unwrap();
        for padding in [None, Some(padding)] {
            let mask = padding.map_or(whole.shallow_clone(), |padding| (&whole + padding).clamp_min(-6e4));
            let wanted = fused(qkv, Some(&mask), false, 0.5, None);
            let found = fused_within(window, qkv, padding, 0.5, None);
            let real = |x: Tensor| bucket.queries.tokens_of(x.transpose(1, 2).reshape([-1, 8]));
            let off = (real(found) - real(wanted)).abs().max().double_value(&[]);
            assert!(off < 1e-6, "window {window}: off by {off:e}");
        }
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
            _ => scores + kind.tensor([n, n], 0, Device::Cpu).to_kind(Kind::Double),
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
            for mask in MASKS {
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
