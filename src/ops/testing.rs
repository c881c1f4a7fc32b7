//! Compares an operation with its plain formula in fp64, forward and backward.

use tch::{Device, Kind, Tensor};

/// Normally distributed values of this shape, a function of the key, exact in every dtype of `kind`.
pub fn noise(size: &[i64], key: u64, kind: Kind) -> Tensor {
    let n = size.iter().product::<i64>() as usize;
    Tensor::from_slice(&crate::nn::rng::normal(key, n, 1.0)).view(size).to_kind(kind)
}

/// The largest difference relative to the largest wanted value.
pub fn off(found: &Tensor, wanted: &Tensor) -> f64 {
    let (found, wanted) = (found.to_kind(Kind::Double), wanted.to_kind(Kind::Double));
    (found - &wanted).abs().max().double_value(&[]) / wanted.abs().max().double_value(&[]).max(1e-30)
}

/// Asserts that `own` and `plain` agree on their results and on the gradients of all inputs, for random gradients of the
/// results, in fp32, bf16 and fp16. `plain` computes in fp64.
pub fn compare(
    case: &str,
    inputs: &[Tensor],
    own: impl Fn(&[Tensor]) -> Vec<Tensor>,
    plain: impl Fn(&[Tensor]) -> Vec<Tensor>,
) {
    for (kind, tolerance) in [(Kind::Float, 4e-6), (Kind::BFloat16, 2.5e-2), (Kind::Half, 4e-3)] {
        let leaves = |inner: Kind| -> Vec<Tensor> {
            inputs.iter().map(|x| x.detach().to_kind(kind).to_kind(inner).copy().set_requires_grad(true)).collect()
        };
        let (ours, exact) = (leaves(kind), leaves(Kind::Double));
        let (found, wanted) = (own(&ours), plain(&exact));
        let grads: Vec<Tensor> = (90..).zip(&found).map(|(key, y)| noise(&y.size(), key, kind)).collect();
        let wide: Vec<Tensor> = grads.iter().map(|g| g.to_kind(Kind::Double)).collect();
        crate::ffi::backward(&found.iter().collect::<Vec<_>>(), &grads.iter().collect::<Vec<_>>()).unwrap();
        crate::ffi::backward(&wanted.iter().collect::<Vec<_>>(), &wide.iter().collect::<Vec<_>>()).unwrap();
        let results = found.iter().zip(&wanted).map(|(a, b)| ("result", a.detach(), b.detach()));
        let gradients = ours.iter().zip(&exact).map(|(a, b)| ("gradient", a.grad(), b.grad()));
        for (i, (what, a, b)) in results.chain(gradients).enumerate() {
            assert_eq!(a.kind(), kind, "{case}");
            let off = off(&a, &b);
            assert!(off < tolerance, "{case}, {kind:?}: {what} {i} is off by {off:e}");
        }
    }
}

/// The mask of a keyed dropout, fp64: 0 or 1 / (1 - p).
pub fn mask(size: &[i64], p: f64, key: u64) -> Tensor {
    super::dropout::dropout(Tensor::ones(size, (Kind::Float, Device::Cpu)), p, key).to_kind(Kind::Double)
}
