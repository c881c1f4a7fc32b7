//! Half precision on the CPU: each layer against fp64 of the same numbers, and what it keeps for backward.
//!
//! "Rounded once" is the bound: half a unit in the last place of the type, and what fp32 sums lose.

use tch::{Device, Kind, Tensor};
use trainer::ffi::memory::{Use, during, install, resize_storage, usage};
use trainer::ffi::{self, ops};
use trainer::ops::linear::{Matmul, linear_by, matmul, on_cpu};

const HALVES: [Kind; 2] = [Kind::BFloat16, Kind::Half];

/// Half a unit in the last place, relative (8 and 11 significant bits).
fn rounding(kind: Kind) -> f64 {
    if kind == Kind::BFloat16 { 2f64.powi(-8) } else { 2f64.powi(-11) }
}

fn random(shape: &[i64], scale: f64, kind: Kind) -> Tensor {
    // Other numbers for another shape or scale.
    let n = shape.iter().product::<i64>();
    let key = trainer::nn::rng::key(n as u64, &[shape.len() as u64, (scale * 1e6) as u64]);
    let values = trainer::nn::rng::normal(key, n as usize, scale);
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

fn leaf(x: &Tensor, kind: Kind) -> Tensor {
    x.to_kind(kind).detach().copy().set_requires_grad(true)
}

/// Result and gradients of `f` on these inputs in `kind`.
fn run(kind: Kind, inputs: &[&Tensor], grad: &Tensor, f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
    let leaves: Vec<Tensor> = inputs.iter().map(|t| leaf(t, kind)).collect();
    let y = f(&leaves);
    assert_eq!(y.kind(), kind);
    ffi::backward(&[&y], &[&grad.to_kind(kind)]).unwrap();
    let grads = leaves.iter().map(|leaf| {
        assert_eq!(leaf.grad().kind(), kind, "a gradient is of its weight's type");
        leaf.grad()
    });
    std::iter::once(y.detach()).chain(grads).collect()
}

/// `got` lies within one rounding of `wanted` and `slack`, a tensor or a number: what summing in fp32 may lose.
fn assert_rounded_once(what: &str, got: &Tensor, wanted: &Tensor, slack: &Tensor) {
    // Below 2^-14, fp16 has a fixed step.
    let bound = wanted.abs() * rounding(got.kind()) * 1.0001 + slack + 2f64.powi(-25);
    let excess = ((got.to_kind(Kind::Double) - wanted).abs() - bound).max().double_value(&[]);
    assert!(excess <= 0.0, "{what} in {:?}: {excess:e} past one rounding", got.kind());
}

/// The relative distance of two tensors.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    (&a - &b).norm().double_value(&[]) / b.norm().double_value(&[])
}

/// The ways to be tested: the native one only where it would be taken.
fn ways(kind: Kind) -> Vec<Matmul> {
    let mut ways = vec![Matmul::Upcast];
    if matmul(kind) == Matmul::Native {
        ways.push(Matmul::Native);
    }
    ways
}

#[test]
fn linear_is_rounded_once() {
    for kind in HALVES {
        for [t, inputs, outputs] in [[700, 384, 1536], [61, 96, 32], [5, 384, 2], [1, 128, 3], [1, 1, 1]] {
            let x = random(&[t, inputs], 1.0, kind);
            let (w, b) = (random(&[outputs, inputs], 0.05, kind), random(&[outputs], 0.5, kind));
            let g = random(&[t, outputs], 0.1, kind);
            let [xd, wd, bd, gd] = [&x, &w, &b, &g].map(|t| t.to_kind(Kind::Double));
            let wanted = [xd.matmul(&wd.tr()) + &bd, gd.matmul(&wd), gd.tr().matmul(&xd), gd.sum_dim(0)];
            let [xa, wa, ba, ga] = [&xd, &wd, &bd, &gd].map(Tensor::abs);
            let sizes = [xa.matmul(&wa.tr()) + &ba, ga.matmul(&wa), ga.tr().matmul(&xa), ga.sum_dim(0)];
            for way in ways(kind) {
                let got = run(kind, &[&x, &w, &b], &g, |l| linear_by(way, &l[0], &l[1], Some(&l[2])));
                for (i, name) in ["result", "gradient of x", "gradient of W", "gradient of b"].iter().enumerate() {
                    let what = format!("{way:?} {t} x {inputs} to {outputs}: {name}");
                    assert_rounded_once(&what, &got[i], &wanted[i], &(&sizes[i] * 1e-6));
                }
            }
        }
    }
}

trait SumDim {
    fn sum_dim(&self, dim: i64) -> Tensor;
}

impl SumDim for Tensor {
    fn sum_dim(&self, dim: i64) -> Tensor {
        self.sum_dim_intlist([dim].as_slice(), false, self.kind())
    }
}

/// What is frozen has no gradient, and what is needed for that gradient alone is not kept.
#[test]
fn linear_leaves_frozen_parts_alone() {
    install();
    let kind = Kind::BFloat16;
    let bytes = (512 * 256 * 2) as u64;
    for (x_learns, w_learns) in [(true, false), (false, true)] {
        let w = random(&[256, 256], 0.05, kind).set_requires_grad(w_learns);
        let source = random(&[512, 256], 1.0, kind).set_requires_grad(x_learns);
        let before = held();
        // x lives on only if the graph keeps it.
        let y = during(Use::Communication, || {
            let x = &source * 2.0;
            linear_by(Matmul::Upcast, &x, &w, None)
        });
        assert_eq!(held() - before, if w_learns { 2 * bytes } else { bytes }, "the result, and x if W learns");
        ffi::backward(&[&y], &[&y.ones_like()]).unwrap();
        assert_eq!((source.grad().defined(), w.grad().defined()), (x_learns, w_learns));
    }
}

/// Bytes of what tests allocate under a use that nothing else here has.
fn held() -> u64 {
    usage().current[Use::Communication as usize]
}

/// Nothing fp32 outlives the forward pass but a number or two a row.
#[test]
fn only_half_tensors_are_kept() {
    install();
    for kind in HALVES {
        let (t, width) = (512, 256);
        let tensor = (t * width * 2) as u64;
        let x = random(&[t, width], 1.0, kind).set_requires_grad(true);
        let w = random(&[width, width], 0.05, kind).set_requires_grad(true);
        let b = random(&[width], 0.05, kind).set_requires_grad(true);
        let grows = |make: &dyn Fn() -> Tensor| {
            let before = held();
            let y = during(Use::Communication, make);
            (held() - before, y).0
        };
        let linear = grows(&|| linear_by(Matmul::Upcast, &x, &w, Some(&b)));
        assert_eq!(linear, tensor, "linear keeps its result only");
        let norm = grows(&|| ops::norm(&x, (&w.get(0).detach(), Some(&b)), true, 1e-12).unwrap());
        assert!((tensor..=tensor + 1024 + 2 * 4 * t as u64).contains(&norm), "norm: {norm}");
        // 16 sequences of 32 tokens, 8 heads of 32
        let heads = x.view([16, 32, 8, 32]).transpose(1, 2);
        for dropout in [None, Some((0.1, 7))] {
            let kept = grows(&|| ops::attention([&heads, &heads, &heads], None, 0.2, (false, 0), dropout).unwrap());
            let sums = 4 * (16 * 32 * 8) as u64;
            assert!(kept <= tensor + sums + 1024, "attention, dropout {dropout:?}: {kept} for {tensor}");
        }
    }
}

/// What sharded weights live by: the weights' storage is empty between forward and backward.
#[test]
fn weights_may_be_away_between_the_passes() {
    let kind = Kind::BFloat16;
    let run = |away: bool| {
        let flat = random(&[64 * 48 + 3 * 64], 0.1, kind);
        let part = |start, shape: &[i64]| {
            let length = shape.iter().product();
            flat.narrow(0, start, length).view(shape).detach().set_requires_grad(true)
        };
        let (w, b) = (part(0, &[64, 48]), part(64 * 48, &[64]));
        let (scale, shift) = (part(65 * 48 + 16, &[64]), part(64 * 48 + 128, &[64]));
        let x = random(&[20, 48], 1.0, kind).set_requires_grad(true);
        let y = linear_by(Matmul::Upcast, &x, &w, Some(&b));
        let y = ops::norm(&y, (&scale, Some(&shift)), true, 1e-12).unwrap();
        if away {
            let copy = flat.copy();
            resize_storage(&flat, 0).unwrap();
            resize_storage(&flat, flat.numel() * 2).unwrap();
            flat.data().copy_(&copy);
        }
        ffi::backward(&[&y], &[&random(&[20, 64], 0.5, kind)]).unwrap();
        [x.grad(), w.grad(), b.grad(), scale.grad(), shift.grad()].map(|grad| ffi::bytes(&grad).to_vec())
    };
    assert_eq!(run(false), run(true));
}

/// Also over many rows, where libtorch's own half kernel loses the gradients of scale and shift.
#[test]
fn layer_norm_is_rounded_once() {
    for kind in HALVES {
        for rows in [3, 5000] {
            let x = random(&[rows, 96], 3.0, kind);
            let (w, b) = (random(&[96], 0.5, kind), random(&[96], 0.4, kind));
            let g = random(&[rows, 96], 0.7, kind) + 0.3;
            let got = run(kind, &[&x, &w, &b], &g, |l| ops::norm(&l[0], (&l[1], Some(&l[2])), true, 1e-12).unwrap());
            let exact =
                run(Kind::Double, &[&x, &w, &b], &g, |l| l[0].layer_norm([96], Some(&l[1]), Some(&l[2]), 1e-12, false));
            for (i, name) in ["result", "gradient of x", "gradient of scale", "gradient of shift"].iter().enumerate() {
                let slack = Tensor::from(rows as f64 * 1e-6);
                assert_rounded_once(&format!("norm of {rows} rows: {name}"), &got[i], &exact[i], &slack);
            }
        }
    }
}

/// Against the same attention in fp32, without and with dropout (the same mask), full and padded.
#[test]
fn attention_is_fp32_rounded() {
    let (n, heads, length, dim) = (3, 4, 19, 16);
    let mask = Tensor::zeros([n, 1, 1, length], (Kind::Float, Device::Cpu));
    _ = mask.get(1).narrow(2, 11, 8).fill_(f64::NEG_INFINITY);
    for kind in HALVES {
        let [q, k, v, g] = [1.0, 1.1, 1.2, 0.9].map(|s| random(&[n, length, heads, dim], s, kind).transpose(1, 2));
        for mask in [None, Some(&mask)] {
            for dropout in [None, Some((0.3, 11))] {
                let ours = run(kind, &[&q, &k, &v], &g, |l| {
                    ops::attention([&l[0], &l[1], &l[2]], mask, 0.25, (false, 0), dropout).unwrap()
                });
                let wanted = run(Kind::Float, &[&q, &k, &v], &g, |l| {
                    let scores = (&l[0] * 0.25).matmul(&l[1].transpose(-2, -1));
                    let scores = mask.map_or(scores.shallow_clone(), |mask| &scores + mask);
                    let weights = scores.softmax(-1, Kind::Float);
                    let weights =
                        dropout.map_or(weights.shallow_clone(), |(p, key)| ops::dropout(&weights, p, key).unwrap());
                    weights.matmul(&l[2])
                });
                for (i, name) in ["result", "gradient of q", "gradient of k", "gradient of v"].iter().enumerate() {
                    let away = distance(&ours[i], &wanted[i]);
                    let bound = rounding(kind) * 0.6;
                    assert!(away < bound, "{kind:?} mask {} dropout {dropout:?}: {name}: {away:e}", mask.is_some());
                }
            }
        }
    }
}

#[test]
fn dropout_drops_the_same_in_every_type() {
    let x = random(&[300, 70], 1.0, Kind::BFloat16);
    let dropped = |kind| run(kind, &[&x], &x.ones_like(), |l| ops::dropout(&l[0], 0.3, 5).unwrap());
    let single = dropped(Kind::Float);
    let kept = single[0].not_equal(0.0).sum(Kind::Int64).int64_value(&[]) as f64 / 21_000.0;
    assert!((kept - 0.7).abs() < 0.02, "{kept}");
    for kind in HALVES {
        let half = dropped(kind);
        assert!(half[0].equal(&single[0].to_kind(kind)), "{kind:?}: fp32's result, rounded once");
        assert!(half[1].equal(&single[1].to_kind(kind)), "{kind:?}: the gradient has the same mask");
    }
}

/// The gradient of a leaf goes where it is told to, or nowhere.
#[test]
fn gradients_can_be_cleared_and_set() {
    let x = Tensor::ones([4], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
    let place = Tensor::full([4], 2.0, (Kind::BFloat16, Device::Cpu));
    let backward = || ffi::backward(&[&(&x * 3.0)], &[&place.ones_like()]).unwrap();
    ffi::set_grad(&x, &place).unwrap();
    backward();
    assert_eq!(Vec::<f32>::try_from(place.to_kind(Kind::Float)).unwrap(), [5.0; 4]);
    ffi::clear_grad(&x).unwrap();
    assert!(!x.grad().defined());
    backward();
    assert_eq!(Vec::<f32>::try_from(place.to_kind(Kind::Float)).unwrap(), [5.0; 4], "no longer its place");
    assert_eq!(Vec::<f32>::try_from(x.grad().to_kind(Kind::Float)).unwrap(), [3.0; 4]);
}

/// TF32 is a GPU's: matmuls on the CPU do not change.
#[test]
fn tf32_changes_nothing_on_the_cpu() {
    let (a, b) = (random(&[300, 200], 1.0, Kind::Float), random(&[200, 100], 1.1, Kind::Float));
    ffi::set_tf32(false).unwrap();
    let exact = a.matmul(&b);
    ffi::set_tf32(true).unwrap();
    assert!(exact.equal(&a.matmul(&b)));
    ffi::set_tf32(false).unwrap();
}

#[test]
fn only_halves_on_the_cpu_are_special() {
    for (kind, special) in [(Kind::BFloat16, true), (Kind::Half, true), (Kind::Float, false), (Kind::Double, false)] {
        assert_eq!(on_cpu(&Tensor::zeros([1], (kind, Device::Cpu))), special);
    }
    assert_eq!(matmul(Kind::Float), Matmul::Native);
    assert!(!ffi::cpu_has(c"no_such_thing").unwrap());
}
