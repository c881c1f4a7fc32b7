use super::*;
use crate::ops::testing::{self, off};
use tch::Device;

fn noise(size: &[i64], key: u64) -> Tensor {
    testing::noise(size, key, Kind::Double)
}

/// Losses and gradients are those of the plain formula in fp64: with and without bias and smoothing, in fp32 and half
/// types, of a single row, of fewer and of more rows than are computed at a time, with large logits.
#[test]
fn losses_and_gradients_are_those_of_the_formula() {
    for (n, classes, width, bias, smoothing, scale) in [
        (1, 5, 3, false, 0.0, 1.0),
        (7, 2, 1, true, 0.1, 1.0),
        (150, 41_003, 4, true, 0.0, 1.0),
        (131, 30_000, 6, false, 0.2, 40.0),
    ] {
        // The gradient of x is a sum over all classes, whose rounding errors in fp32 depend on the processor's order.
        let of_sum = 6e-8 * f64::from(classes as i32).sqrt();
        for (kind, tolerance) in [(Kind::Float, of_sum.max(2e-6)), (Kind::BFloat16, 1e-2), (Kind::Half, 2e-3)] {
            if scale > 1.0 && kind != Kind::Float {
                continue; // rounded logits that large are other probabilities
            }
            let leaf = |t: Tensor, kind: Kind| t.to_kind(Kind::Float).to_kind(kind).set_requires_grad(true);
            let x = leaf(noise(&[n, width], 1) * scale, kind);
            let weight = leaf(noise(&[classes, width], 2) * 0.5, kind);
            let b = bias.then(|| leaf(noise(&[classes], 3), kind));
            let targets = (Tensor::arange(n, (Kind::Int64, Device::Cpu)) * 7919).remainder(classes);
            let bias = b.as_ref().map(Tensor::shallow_clone);
            let own = Projection { x: x.shallow_clone(), weight: weight.shallow_clone(), bias };
            let found = own.cross_entropy(&targets, smoothing);
            assert!(!found.values.requires_grad());
            let factor = 0.037;
            crate::ffi::backward(&[&found.root], &[&found.root.full_like(factor)]).unwrap();

            let wide = |t: &Tensor| t.detach().to_kind(Kind::Double).set_requires_grad(true);
            let (wx, ww, wb) = (wide(&x), wide(&weight), b.as_ref().map(wide));
            let logits = wx.matmul(&ww.tr());
            let logits = wb.as_ref().map_or(logits.shallow_clone(), |b| &logits + b);
            let log = logits.log_softmax(1, Kind::Double);
            let at_targets = log.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
            let mean = log.mean_dim([1i64].as_slice(), false, Kind::Double);
            let wanted = at_targets * -(1.0 - smoothing) - mean * smoothing;
            (wanted.sum(Kind::Double) * factor).backward();

            let case = format!("{n} rows, {classes} classes, {kind:?}, smoothing {smoothing}");
            assert!(off(&found.values, &wanted) < tolerance, "{case}: losses");
            let pairs = [Some((&x, &wx)), Some((&weight, &ww)), b.as_ref().zip(wb.as_ref())];
            for (name, (own, wide)) in ["x", "weight", "bias"].iter().zip(pairs.into_iter().flatten()) {
                let off = off(&own.grad(), &wide.grad());
                assert!(off < tolerance, "{case}: gradient of {name}: {off:e}");
                assert_eq!(own.grad().kind(), kind);
            }
        }
    }
}

/// What needs no gradient has none, and nothing is computed for it.
#[test]
fn frozen_weights_have_no_gradient() {
    let (x, weight) = (noise(&[4, 3], 1).to_kind(Kind::Float), noise(&[9, 3], 2).to_kind(Kind::Float));
    let targets = Tensor::from_slice(&[0i64, 8, 3, 3]);
    let x = x.set_requires_grad(true);
    let own = Projection { x: x.shallow_clone(), weight: weight.shallow_clone(), bias: None };
    let root = own.cross_entropy(&targets, 0.0).root;
    root.backward();
    assert!(x.grad().defined() && !weight.grad().defined());
    let own = Projection { x: x.detach(), weight, bias: None };
    assert!(!own.cross_entropy(&targets, 0.0).root.requires_grad());
    let all = own.logits().cross_entropy_loss::<Tensor>(&targets, None, tch::Reduction::None, -100, 0.0);
    assert!(off(&own.cross_entropy(&targets, 0.0).values, &all.to_kind(Kind::Double)) < 1e-6);
}

#[test]
#[should_panic(expected = "class 9 of 9")]
fn a_class_out_of_range_is_refused() {
    let [x, weight] = [[1, 3], [9, 3]].map(|size| noise(&size, 1).to_kind(Kind::Float));
    Projection { x, weight, bias: None }.cross_entropy(&Tensor::from_slice(&[9i64]), 0.0);
}
