//! Rotary position embeddings, activations, dropout.

mod common;

use common::{KINDS, close, close_within, double, random, run, same, seeded};
use kernel_tests::call;
use tch::{Device, Kind, Tensor};

type Function = fn(&Tensor) -> Tensor;

/// In the order of `kernels::Activation`.
const ACTIVATIONS: [(&str, Function); 5] = [
    ("silu", |x| x * x.sigmoid()),
    ("gelu", |x| x * 0.5 * ((x / 2f64.sqrt()).erf() + 1.0)),
    ("gelu_tanh", |x| {
        x * 0.5 * (((x + x.pow_tensor_scalar(3) * 0.044715) * (2.0 / std::f64::consts::PI).sqrt()).tanh() + 1.0)
    }),
    ("relu", |x| x.relu()),
    ("tanh", |x| x.tanh()),
];

/// The rotated matrix, by the formula, pair by pair.
fn rotated(x: &Tensor, c: &Tensor, s: &Tensor, [column, heads, dim]: [i64; 3], sign: f64) -> Tensor {
    let out = double(x).copy();
    for head in 0..heads {
        let part = |from: i64| double(x).narrow(1, column + head * dim + from, dim / 2);
        let (a, b) = (part(0), part(dim / 2));
        let put = |from: i64, value: Tensor| out.narrow(1, column + head * dim + from, dim / 2).copy_(&value);
        put(0, &a * c - &b * s * sign);
        put(dim / 2, &b * c + &a * s * sign);
    }
    out
}

#[test]
fn rotary_rotates_pairs_in_place() {
    let _generator = seeded(1);
    for (kind, _) in KINDS {
        // Columns, [column, heads, head_dim]; odd halves, offsets that are not aligned, whole vectors, many heads.
        for (tokens, columns, place) in
            [(1, 6, [0, 1, 6]), (3, 30, [6, 2, 10]), (4, 64, [0, 3, 16]), (5, 66, [2, 4, 16]), (3, 640, [64, 9, 64])]
        {
            for fp32 in [false, true] {
                for sign in [1.0, -1.0] {
                    // Rows of a wider matrix.
                    let whole = random(kind, &[tokens, columns + 8], 1.0);
                    let x = whole.narrow(1, 0, columns);
                    let before = whole.copy();
                    let angles = Tensor::randn([tokens, place[2] / 2], (Kind::Double, Device::Cpu)) * 3.0;
                    let table = if fp32 { Kind::Float } else { kind };
                    let (c, s) = (angles.cos().to_kind(table), angles.sin().to_kind(table));
                    let want = rotated(&x, &double(&c), &double(&s), place, sign);
                    let numbers = [place[0] as f64, place[1] as f64, place[2] as f64, f64::from(u8::from(sign < 0.0))];
                    run::<0>("rotary", &[Some(&x), Some(&c), Some(&s)], &numbers);
                    let what = format!("{tokens} tokens, {columns} columns, {place:?}, sign {sign}");
                    close(&x, &want, &what);
                    let end = place[0] + place[1] * place[2];
                    for (from, to) in [(0, place[0]), (end, columns + 8)] {
                        let of = |x: &Tensor| x.narrow(1, from, to - from);
                        assert!(same(&of(&whole), &of(&before)), "{what}: other columns changed");
                    }
                }
            }
        }
    }
}

#[test]
fn rotary_refuses_what_is_outside() {
    let _generator = seeded(9);
    let x = random(Kind::Float, &[2, 16], 1.0);
    let table = random(Kind::Float, &[2, 4], 1.0);
    for (numbers, table, part) in [
        ([8.0, 2.0, 8.0, 0.0], &table, "2 heads of 8 from column 8 on exceed [2, 16]"),
        ([0.0, 2.0, 7.0, 0.0], &table, "even head_dim"),
        ([0.0, 1.0, 8.0, 0.0], &random(Kind::Float, &[1, 4], 1.0), "expected [2, 4], got [1, 4]"),
        ([0.0, 1.0, 8.0, 0.0], &random(Kind::Half, &[2, 4], 1.0), "Half"),
    ] {
        let error = call("rotary", &[Some(&x), Some(table), Some(table)], &numbers, 0).expect_err("it is wrong");
        assert!(error.contains(part), "{error}");
    }
}

/// Rows of one element, without and with whole vectors, and more vectors than threads.
const SHAPES: [[i64; 2]; 6] = [[1, 1], [3, 5], [2, 32], [1, 264], [2, 2056], [70, 8]];

#[test]
fn gated_activations_are_their_formulas() {
    let _generator = seeded(2);
    for (kind, _) in KINDS {
        for (act, (name, function)) in ACTIVATIONS.iter().enumerate() {
            for [rows, width] in SHAPES {
                let (x, g) = (random(kind, &[rows, 2 * width], 2.0), random(kind, &[rows, width], 1.0));
                let exact = double(&x).set_requires_grad(true);
                let want = function(&exact.narrow(1, 0, width)) * exact.narrow(1, width, width);
                let [y] = run("gated_activation", &[Some(&x)], &[act as f64]);
                let what = format!("{name} [{rows}, {width}]");
                close(&y, &want.detach(), &what);
                (want * double(&g)).sum(Kind::Double).backward();
                let [gx, again] = run("gated_activation_backward", &[Some(&g), Some(&x)], &[act as f64, 1.0]);
                close(&gx, &exact.grad(), &format!("{what}: gradient"));
                assert!(same(&again, &y), "{what}: the value again");
                let given = [Some(&g), Some(&x)];
                let without = call("gated_activation_backward", &given, &[act as f64, 0.0], 0).unwrap();
                assert!(same(without[0].as_ref().unwrap(), &gx) && without[1].is_none(), "{what}: without value");
            }
        }
    }
}

#[test]
fn activations_are_their_formulas() {
    let _generator = seeded(3);
    for (kind, _) in KINDS {
        for (act, (name, function)) in ACTIVATIONS.iter().enumerate() {
            for shape in SHAPES {
                let (x, g) = (random(kind, &shape, 2.0), random(kind, &shape, 1.0));
                let exact = double(&x).set_requires_grad(true);
                let want = function(&exact);
                let [y] = run("activation", &[Some(&x)], &[act as f64]);
                let what = format!("{name} {shape:?}");
                close(&y, &want.detach(), &what);
                (want * double(&g)).sum(Kind::Double).backward();
                let [gx, again] = run("activation_backward", &[Some(&g), Some(&x)], &[act as f64, 1.0]);
                close(&gx, &exact.grad(), &format!("{what}: gradient"));
                assert!(same(&again, &y), "{what}: the value again");
            }
        }
    }
}

#[test]
fn activations_of_large_numbers_are_finite() {
    for (kind, _) in KINDS {
        let x = Tensor::from_slice(&[-6e4, -1e4, -300.0, -100.0, -30.0, -1e-4, 0.0, 1e-4, 30.0, 100.0, 300.0, 6e4]);
        let x = x.to_kind(kind);
        let one = x.ones_like();
        for (act, (name, function)) in ACTIVATIONS.iter().enumerate() {
            let exact = double(&x).set_requires_grad(true);
            let want = function(&exact);
            let [y] = run("activation", &[Some(&x)], &[act as f64]);
            close_within(&y, &want.detach(), 1e-9, name);
            want.sum(Kind::Double).backward();
            let [gx, _] = run("activation_backward", &[Some(&one), Some(&x)], &[act as f64, 1.0]);
            close(&gx, &exact.grad(), &format!("{name}: gradient"));
        }
        let nan = Tensor::from_slice(&[f64::NAN]).to_kind(kind);
        for act in 0..ACTIVATIONS.len() {
            let [y] = run("activation", &[Some(&nan)], &[act as f64]);
            assert!(bool::try_from(y.isnan().all()).unwrap(), "NaN stays");
        }
    }
}

/// The generator of the CPU's dropout.
fn bits(key: u64, i: u64) -> u32 {
    let mix = |mut x: u32| {
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^ x >> 16
    };
    mix(mix(i as u32 ^ key as u32).wrapping_add((key >> 32) as u32))
}

const KEY: u64 = 0x0123_4567_89ab_cdef;
/// Which of elements 0..64 the CPU's dropout keeps with this key and p = 0.3, as bits.
const MASK: u64 = 0xe5ee6bf88bff73a5;

#[test]
fn dropout_has_the_mask_of_the_cpu() {
    let _generator = seeded(4);
    for (kind, _) in KINDS {
        for (n, p) in [(1, 0.3), (31, 0.5), (64, 0.0), (1003, 0.1), (4096, 0.9)] {
            for key in [KEY, 7, u64::MAX] {
                let (x, residual) = (random(kind, &[n], 1.0), random(kind, &[n], 1.0));
                let threshold = (p * 4294967296.0) as u32;
                let scale = f64::from((1.0 / (1.0 - f64::from(threshold) / 4294967296.0)) as f32);
                let mask: Vec<f64> =
                    (0..n as u64).map(|i| if bits(key, i) >= threshold { scale } else { 0.0 }).collect();
                let kept = double(&x) * Tensor::from_slice(&mask);
                let get = |residual| {
                    let [y, ..] = call("dropout_add", &[Some(&x), residual], &[p], key as i64).unwrap();
                    y.unwrap()
                };
                close_within(&get(None), &kept, 0.0, &format!("{n}, {p}"));
                close(&get(Some(&residual)), &(kept + double(&residual)), &format!("{n}, {p}, residual"));
            }
        }
    }
}

/// The mask is a constant of the program: a resumed run samples the masks of the run that it resumes.
#[test]
fn the_generator_does_not_change() {
    let ones = Tensor::ones([64], (Kind::Float, Device::Cpu));
    let [y, ..] = call("dropout_add", &[Some(&ones)], &[0.3], KEY as i64).unwrap();
    let kept: Vec<f32> = y.unwrap().try_into().unwrap();
    let found = kept.iter().rev().fold(0u64, |all, &y| all << 1 | u64::from(y != 0.0));
    assert_eq!(found, MASK, "{found:#x}");
}
