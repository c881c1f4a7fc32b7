//! Root mean square norm and layer norm, forward and backward.

mod common;

use common::{KINDS, close, close_within, double, random, run, same, seeded};
use kernel_tests::call;
use tch::{Device, Kind, Tensor};

/// One element, no whole vector, whole vectors, and more columns than shared memory holds; one row and many.
const SHAPES: [[i64; 2]; 8] = [[1, 1], [3, 7], [1, 64], [67, 40], [5, 100], [2, 384], [50, 2080], [4, 1030]];

struct Case {
    kind: Kind,
    x: Tensor,
    residual: Option<Tensor>,
    w: Tensor,
    b: Tensor,
    gy: Tensor,
    gsum: Option<Tensor>,
    eps: f64,
    name: String,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (kind, _) in KINDS {
        for shape in SHAPES {
            // A small scale makes eps matter.
            for (with, scale, eps) in [(true, 1.5, 1e-6), (false, 0.004, 1e-5)] {
                let random = |shape: &[i64], scale| random(kind, shape, scale);
                all.push(Case {
                    kind,
                    x: random(&shape, scale),
                    residual: with.then(|| random(&shape, scale)),
                    w: random(&shape[1..], 1.0),
                    b: random(&shape[1..], 1.0),
                    gy: random(&shape, 1.0),
                    gsum: with.then(|| random(&shape, 1.0)),
                    eps,
                    name: format!("{shape:?}, residual: {with}"),
                });
            }
        }
    }
    all
}

/// x + residual, rounded to the element type, exactly.
fn sum_of(case: &Case) -> Tensor {
    match &case.residual {
        Some(residual) => (double(&case.x) + double(residual)).to_kind(case.kind),
        None => case.x.shallow_clone(),
    }
}

/// In a row of one element the terms of the gradient cancel but for eps, and digits with them.
fn of_largest(case: &Case) -> f64 {
    if case.x.size()[1] == 1 { 1e-3 } else { 1e-5 }
}

/// Returns the gradients of `(y gy + sum gsum).sum()` for the leaves.
fn gradients<const N: usize>(case: &Case, y: &Tensor, sum: &Tensor, leaves: [&Tensor; N]) -> [Tensor; N] {
    let mut loss = (y * double(&case.gy)).sum(Kind::Double);
    if let Some(gsum) = &case.gsum {
        loss += (sum * double(gsum)).sum(Kind::Double);
    }
    loss.backward();
    leaves.map(|leaf| leaf.grad())
}

#[test]
fn rms_norm_is_its_formula() {
    let _generator = seeded(1);
    for case in cases() {
        let (sum, name) = (sum_of(&case), &case.name);
        let [got, y, rstd] = run("rms_norm", &[Some(&case.x), case.residual.as_ref(), Some(&case.w)], &[case.eps]);
        assert!(same(&got, &sum), "{name}: sum");
        let exact = double(&sum).set_requires_grad(true);
        let scale = ((&exact * &exact).mean_dim(-1, true, Kind::Double) + case.eps).rsqrt();
        let normal = &exact * &scale;
        let rounded = double(&normal.detach().to_kind(case.kind));
        close(&rstd, &scale.detach().flatten(0, -1), &format!("{name}: rstd"));
        close(&y, &(&rounded * double(&case.w)), &format!("{name}: y"));

        let grads = [Some(&case.gy), case.gsum.as_ref(), Some(&sum), Some(&case.w), Some(&rstd)];
        let [gx, gw] = run("rms_norm_backward", &grads, &[1.0]);
        let [want] = gradients(&case, &(normal * double(&case.w)), &exact, [&exact]);
        close_within(&gx, &want, of_largest(&case), &format!("{name}: gx"));
        let want = (double(&case.gy) * rounded).sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
        // A normalized value may round to the other side in fp32.
        close_within(&gw, &want, if case.kind == Kind::Float { 4e-6 } else { 2e-3 }, &format!("{name}: gw"));

        let without = call("rms_norm_backward", &grads, &[0.0], 0).unwrap();
        assert!(same(without[0].as_ref().unwrap(), &gx) && without[1].is_none(), "{name}: without gw");
        let [again, gw_again] = run("rms_norm_backward", &grads, &[1.0]);
        assert!(same(&again, &gx) && same(&gw_again, &gw), "{name}: not the same bits again");
    }
}

#[test]
fn layer_norm_is_its_formula() {
    let _generator = seeded(1);
    for case in cases() {
        let (sum, name) = (sum_of(&case), &case.name);
        let tensors = [Some(&case.x), case.residual.as_ref(), Some(&case.w), Some(&case.b)];
        let [got, y, mean, rstd] = run("layer_norm", &tensors, &[case.eps]);
        assert!(same(&got, &sum), "{name}: sum");
        let leaf = |x: &Tensor| double(x).set_requires_grad(true);
        let (exact, w, b) = (leaf(&sum), leaf(&case.w), leaf(&case.b));
        let center = exact.mean_dim(-1, true, Kind::Double);
        let scale = ((&exact - &center).square().mean_dim(-1, true, Kind::Double) + case.eps).rsqrt();
        let want = (&exact - &center) * &scale * &w + &b;
        close(&mean, &center.detach().flatten(0, -1), &format!("{name}: mean"));
        close(&rstd, &scale.detach().flatten(0, -1), &format!("{name}: rstd"));
        close(&y, &want.detach(), &format!("{name}: y"));
        let [_, y, ..] = run::<4>("layer_norm", &[tensors[0], tensors[1], tensors[2], None], &[case.eps]);
        close(&y, &(&want - &b).detach(), &format!("{name}: y without a shift"));

        let grads = [Some(&case.gy), case.gsum.as_ref(), Some(&sum), Some(&case.w), Some(&mean), Some(&rstd)];
        let [gx, gw, gb] = run("layer_norm_backward", &grads, &[1.0]);
        let [want_x, want_w, want_b] = gradients(&case, &want, &exact, [&exact, &w, &b]);
        close_within(&gx, &want_x, of_largest(&case), &format!("{name}: gx"));
        close_within(&gw, &want_w, 1e-5, &format!("{name}: gw"));
        close(&gb, &want_b, &format!("{name}: gb"));
        let without = call("layer_norm_backward", &grads, &[0.0], 0).unwrap();
        assert!(same(without[0].as_ref().unwrap(), &gx) && without[1].is_none() && without[2].is_none(), "{name}");
        let [again, gw_again, gb_again] = run("layer_norm_backward", &grads, &[1.0]);
        assert!(same(&again, &gx) && same(&gw_again, &gw) && same(&gb_again, &gb), "{name}: not the same bits again");
    }
}

/// mean(x^2) - mean(x)^2 would lose all digits.
#[test]
fn layer_norm_of_numbers_far_from_zero() {
    let _generator = seeded(2);
    let x = random(Kind::Float, &[3, 512], 1.0) + 1000.0;
    let (w, b) = (random(Kind::Float, &[512], 1.0), random(Kind::Float, &[512], 1.0));
    let [_, y, ..] = run::<4>("layer_norm", &[Some(&x), None, Some(&w), Some(&b)], &[1e-5]);
    let want = double(&x).layer_norm([512], Some(double(&w)), Some(double(&b)), 1e-5, false);
    close_within(&y, &want, 1e-4, "far from zero");
}

#[test]
fn norms_accept_any_number_of_dimensions_and_no_rows() {
    let _generator = seeded(3);
    let (x, w) = (random(Kind::Float, &[2, 3, 8], 1.0), random(Kind::Float, &[8], 1.0));
    let [_, y, rstd] = run("rms_norm", &[Some(&x), None, Some(&w)], &[1e-6]);
    let [_, flat, _] = run("rms_norm", &[Some(&x.view([6, 8])), None, Some(&w)], &[1e-6]);
    assert!(same(&y.view([6, 8]), &flat) && y.size() == [2, 3, 8] && rstd.size() == [6]);
    // Rows that are not contiguous, and an expanded gradient.
    let columns = random(Kind::Float, &[8, 6], 1.0);
    let [_, y, rstd] = run("rms_norm", &[Some(&columns.tr()), None, Some(&w)], &[1e-6]);
    let [_, flat, _] = run("rms_norm", &[Some(&columns.tr().contiguous()), None, Some(&w)], &[1e-6]);
    assert!(same(&y, &flat));
    let one = Tensor::ones([1], (Kind::Float, Device::Cpu)).expand([6, 8], false);
    let given = [Some(&one), None, Some(&flat), Some(&w), Some(&rstd)];
    let [_, gw] = run("rms_norm_backward", &given, &[1.0]);
    assert_eq!(gw.size(), [8]);
    let none = Tensor::empty([0, 8], (Kind::Float, Device::Cpu));
    let [_, y, rstd] = run("rms_norm", &[Some(&none), None, Some(&w)], &[1e-6]);
    let [gx, gw] = run("rms_norm_backward", &[Some(&none), None, Some(&none), Some(&w), Some(&rstd)], &[1.0]);
    assert_eq!((y.numel(), gx.numel()), (0, 0));
    assert!(same(&gw, &w.zeros_like()));
}

#[test]
fn wrong_arguments_are_errors() {
    let _generator = seeded(9);
    let x = random(Kind::Float, &[2, 8], 1.0);
    let refused = |tensors: &[Option<&Tensor>], part: &str| {
        let error = call("rms_norm", tensors, &[1e-6], 0).expect_err("it is wrong");
        assert!(error.contains(part), "{error}");
    };
    refused(&[Some(&x), None, Some(&random(Kind::Float, &[7], 1.0))], "rms_norm_forward: expected [8], got [7]");
    refused(&[Some(&x), None, Some(&random(Kind::Half, &[8], 1.0))], "Half");
    refused(&[Some(&x), Some(&random(Kind::Float, &[1, 8], 1.0)), Some(&x.get(0))], "expected [2, 8]");
    let x = random(Kind::Double, &[2, 8], 1.0);
    refused(&[Some(&x), None, Some(&x.get(0))], "there is no kernel for double");
}
