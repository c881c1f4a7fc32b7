//! Comparison of the kernels with formulas in fp64.
#![allow(dead_code, reason = "every test file uses a part of it")]

use kernel_tests::call;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// Element types, each with its unit roundoff.
pub const KINDS: [(Kind, f64); 3] =
    [(Kind::Float, 1.0 / (1 << 24) as f64), (Kind::BFloat16, 1.0 / 512.0), (Kind::Half, 1.0 / 2048.0)];

/// Seeds libtorch's generator, which all threads share, so that a test has the same numbers in every run.
pub fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}

/// Random numbers of an element type, of standard deviation `scale`.
pub fn random(kind: Kind, shape: &[i64], scale: f64) -> Tensor {
    (Tensor::randn(shape, (Kind::Double, Device::Cpu)) * scale).to_kind(kind)
}

pub fn double(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Double)
}

/// Calls a function that must not fail and returns its first N results.
pub fn run<const N: usize>(name: &str, tensors: &[Option<&Tensor>], numbers: &[f64]) -> [Tensor; N] {
    let mut results = call(name, tensors, numbers, 0).unwrap_or_else(|e| panic!("{name}: {e}")).into_iter();
    std::array::from_fn(|i| results.next().flatten().unwrap_or_else(|| panic!("{name}: no result {i}")))
}

/// Compares with the exact result: every element within three roundings, and of the half types almost all elements equal
/// to the exact result rounded once. Sums in fp32 are off by about 1e-6 of the largest element.
pub fn close(got: &Tensor, want: &Tensor, what: &str) {
    close_within(got, want, 4e-6, what);
}

pub fn close_within(got: &Tensor, want: &Tensor, of_largest: f64, what: &str) {
    assert_eq!(got.size(), want.size(), "{what}");
    let kind = got.kind();
    let (_, roundoff) = *KINDS.iter().find(|(each, _)| *each == kind).unwrap_or_else(|| panic!("{what}: {kind:?}"));
    let largest = f64::try_from(want.abs().max()).unwrap();
    let allowed = want.abs() * (3.0 * roundoff) + (of_largest * largest + 1e-7);
    let off = (double(got) - want).abs();
    let worst = f64::try_from((&off / &allowed).max()).unwrap();
    assert!(worst <= 1.0, "{what}, {kind:?}: off by {worst} times what is allowed");
    if kind != Kind::Float {
        let rounded = double(&want.to_kind(kind));
        let equal =
            f64::try_from((double(got) - rounded).abs().le(1e-7).to_kind(Kind::Double).mean(Kind::Double)).unwrap();
        let few = 2.0 / got.numel() as f64;
        assert!(equal >= 0.97 - few, "{what}, {kind:?}: {equal} of the elements are rounded correctly");
    }
}

/// Whether two tensors have the same bits (but for the sign of zero).
pub fn same(a: &Tensor, b: &Tensor) -> bool {
    a.equal(b)
}
