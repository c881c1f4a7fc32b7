use super::*;
use crate::ops::testing::{compare, noise};
use tch::{Device, Kind};

const HEADS: i64 = 2;
const HEAD_DIM: i64 = 4;

fn config(window: i64) -> GlobalAttentionConfig {
    GlobalAttentionConfig { heads: HEADS, head_dim: HEAD_DIM, scale: 0.7, dropout: 0.0, window }
}

/// Attention in fp64 with all scores of each sequence.
fn plain(window: i64, x: &[Tensor], lengths: &[i64], globals: &[Range<i64>]) -> Tensor {
    let (mut start, mut global) = (0, 0);
    let heads = |rows: Tensor| rows.view([-1, HEADS, HEAD_DIM]).transpose(0, 1);
    let attended = |q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor| {
        let scores = (q * 0.7).matmul(&k.transpose(1, 2)) + mask;
        scores.softmax(-1, Kind::Double).matmul(v).transpose(0, 1).reshape([-1, HEADS * HEAD_DIM])
    };
    let sequence = |(&n, own): (&i64, &Range<i64>)| {
        let part =
            |rows: &Tensor, parts: i64, i: i64| heads(rows.narrow(0, start, n).chunk(parts, 1)[i as usize].copy());
        let [q, k, v] = [0, 1, 2].map(|i| part(&x[0], 3, i));
        let positions = Tensor::arange(n, (Kind::Int64, Device::Cpu));
        let near = (positions.unsqueeze(1) - positions.unsqueeze(0)).abs().le(window);
        let is_global = positions.ge(own.start).logical_and(&positions.lt(own.end));
        let hidden = near.logical_or(&is_global).logical_not();
        let mask = Tensor::zeros([n, n], (Kind::Double, Device::Cpu)).masked_fill(&hidden, f64::NEG_INFINITY);
        let local = attended(&q, &k, &v, &mask);
        let count = own.end - own.start;
        let out = if count == 0 {
            local
        } else {
            let q = heads(x[1].narrow(0, global, count));
            let rows = attended(&q, &part(&x[2], 2, 0), &part(&x[2], 2, 1), &mask.zeros_like().narrow(0, 0, count));
            Tensor::cat(&[local.narrow(0, 0, own.start), rows, local.narrow(0, own.end, n - own.end)], 0)
        };
        start += n;
        global += count;
        out
    };
    Tensor::cat(&lengths.iter().zip(globals).map(sequence).collect::<Vec<_>>(), 0)
}

/// qkv, and of global attention the queries, keys and values.
fn inputs(lengths: &[i64], globals: &[Range<i64>]) -> Vec<Tensor> {
    let (tokens, width) = (lengths.iter().sum::<i64>(), HEADS * HEAD_DIM);
    let count: i64 = globals.iter().map(|own| own.end - own.start).sum();
    let qkv = noise(&[tokens, 3 * width], 1, Kind::Float);
    let global = [noise(&[count, width], 2, Kind::Float), noise(&[tokens, 2 * width], 3, Kind::Float)];
    [qkv].into_iter().chain(global.into_iter().filter(|_| count > 0)).collect()
}

fn ours(window: i64, x: &[Tensor], of: (&[i64], &[Range<i64>]), drops: Option<(f64, u64)>) -> Tensor {
    attend(&config(window), &x[0], (x.len() > 1).then(|| [&x[1], &x[2]]), of, drops)
}

/// A window, the lengths of sequences, and the global tokens of each.
type Case<'a> = (i64, &'a [i64], &'a [Range<i64>]);

/// Lengths below and above a window and a block of queries, equal and not; global tokens in front, behind, in the
/// middle, everywhere and nowhere.
#[test]
fn attention_is_its_formula() {
    let cases: [Case; 7] = [
        (2, &[1, 2], &[0..1, 0..1]),
        (1, &[7, 7, 5], &[0..1, 0..1, 0..1]),
        (3, &[20, 20, 9, 9], &[0..4, 0..4, 6..9, 0..0]),
        (2, &[12, 3], &[5..7, 0..3]),
        (4, &[30, 11], &[0..0, 0..0]),
        (40, &[300, 290], &[0..1, 130..150]),
        (150, &[270, 4], &[140..270, 0..0]),
    ];
    for (window, lengths, globals) in cases {
        let case = format!("window {window}, {lengths:?}, {globals:?}");
        let own = |x: &[Tensor]| vec![ours(window, x, (lengths, globals), None)];
        compare(&case, &inputs(lengths, globals), own, |x| vec![plain(window, x, lengths, globals)]);
    }
}

#[test]
fn equal_neighbors_are_one_run() {
    let found = runs(&[5, 5, 5, 3, 5], &[0..1, 0..1, 0..2, 0..1, 0..1]);
    assert_eq!(found, [[2, 5, 0, 1], [1, 5, 0, 2], [1, 3, 0, 1], [1, 5, 0, 1]]);
}

/// The change of a result along any direction is that of its gradients: backward has the masks of forward.
#[test]
fn backward_has_the_masks_of_forward() {
    let (lengths, globals): (&[i64], &[Range<i64>]) = (&[140, 140, 9], &[0..3, 0..3, 0..1]);
    let drops = Some((0.4, 77));
    let x: Vec<Tensor> = inputs(lengths, globals).iter().map(|x| x.set_requires_grad(true)).collect();
    let y = ours(20, &x, (lengths, globals), drops);
    let g = noise(&y.size(), 5, Kind::Float);
    ffi::backward(&[&y], &[&g]).unwrap();
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum(Kind::Double).double_value(&[]);
    for (i, key) in (0..3).zip(10..) {
        let (step, direction) = (1e-2, noise(&x[i].size(), key, Kind::Float));
        let moved = |by: f64| {
            let to: Vec<Tensor> =
                (0..3).map(|j| if j == i { x[j].detach() + &direction * by } else { x[j].detach() }).collect();
            dot(&ours(20, &to, (lengths, globals), drops), &g)
        };
        let (found, wanted) = (dot(&x[i].grad(), &direction), (moved(step) - moved(-step)) / (2.0 * step));
        assert!((found / wanted - 1.0).abs() < 1e-2, "input {i}: {found}, by differences {wanted}");
    }
}

/// With unit vectors as values a result is the row of weights. Each is kept with probability 1 - p, scaled, and masks
/// of blocks differ.
#[test]
fn weights_are_dropped_at_their_rate() {
    let (n, p) = (64, 0.25);
    let config = GlobalAttentionConfig { heads: 1, head_dim: n, scale: 0.1, dropout: p, window: n };
    let values = Tensor::eye(n, (Kind::Float, Device::Cpu));
    let qk = noise(&[n, 2 * n], 1, Kind::Float);
    // Two sequences of other lengths are two blocks.
    let one = Tensor::cat(&[&qk, &values], 1);
    let qkv = Tensor::cat(&[&one, &one.narrow(0, 0, n - 1)], 0);
    let of: (&[i64], &[Range<i64>]) = (&[n, n - 1], &[0..0, 0..0]);
    let [kept, dropped] = [None, Some((p, 3))].map(|drops| attend(&config, &qkv, None, of, drops));
    let factor = (dropped / kept.clamp_min(1e-20)).split_with_sizes([n, n - 1], 0);
    let [first, second] = [&factor[0], &factor[1]].map(|x| x.narrow(0, 0, n - 1).narrow(1, 0, n - 1));
    for part in [&first, &second] {
        let rate = part.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((rate - p).abs() < 0.03, "{rate}");
        let scaled = (part * (1.0 - p) - 1.0).abs().lt(1e-4).logical_or(&part.eq(0.0));
        assert!(scaled.all().int64_value(&[]) == 1, "kept weights are scaled");
    }
    // Independent masks agree with probability p^2 + (1 - p)^2.
    let agree = first.eq(0.0).eq_tensor(&second.eq(0.0)).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((agree - (p * p + (1.0 - p) * (1.0 - p))).abs() < 0.05, "{agree}");
}
