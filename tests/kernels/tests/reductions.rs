//! Cross-entropy and the sum of squares.

mod common;

use common::{KINDS, close_within, double, random, run, same, seeded};
use kernel_tests::call;
use tch::{Device, Kind, Tensor};

/// Losses and gradients by the formula.
fn expected(logits: &Tensor, targets: &Tensor, smoothing: f64) -> (Tensor, Tensor) {
    let (exact, vocabulary) = (double(logits), logits.size()[1]);
    let logs = exact.log_softmax(-1, Kind::Double);
    let wanted = logs.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
    // A logit of -inf has no mean, and none is needed without smoothing.
    let loss = match smoothing {
        0.0 => -wanted,
        _ => -wanted * (1.0 - smoothing) - logs.mean_dim(-1, false, Kind::Double) * smoothing,
    };
    let hot = targets.one_hot(vocabulary).to_kind(Kind::Double);
    (loss, logs.exp() - hot * (1.0 - smoothing) - smoothing / vocabulary as f64)
}

fn check(logits: &Tensor, targets: &[i64], smoothing: f64, what: &str) {
    let targets = Tensor::from_slice(targets);
    let (loss, gradient) = expected(logits, &targets, smoothing);
    let row = logits.copy();
    let [got] = run("cross_entropy", &[Some(&row), Some(&targets)], &[smoothing]);
    close_within(&got, &loss, 2e-6, &format!("{what}: loss"));
    close_within(&row, &gradient, 2e-6, &format!("{what}: gradient"));
}

#[test]
fn cross_entropy_is_its_formula() {
    let _generator = seeded(1);
    for (kind, _) in KINDS {
        for smoothing in [0.0, 0.1] {
            for vocabulary in [2, 3, 33, 1000, 10_004, 50_257] {
                let n = if vocabulary > 2000 { 2 } else { 5 };
                let targets: Vec<i64> = (0..n).map(|i| (i * 31 + vocabulary - 1) % vocabulary).collect();
                let what = format!("[{n}, {vocabulary}], smoothing {smoothing}");
                check(&random(kind, &[n, vocabulary], 3.0), &targets, smoothing, &what);
            }
            check(&random(kind, &[1, 131_072], 3.0), &[131_071], smoothing, "one row, V = 131072");
        }
    }
}

#[test]
fn cross_entropy_of_extreme_logits() {
    let _generator = seeded(2);
    for (kind, _) in KINDS {
        for smoothing in [0.0, 0.1] {
            let check = |logits: &Tensor, what: &str| check(logits, &[1, 5, 200], smoothing, what);
            check(&random(kind, &[3, 203], 1e4), "large");
            check(&(random(kind, &[3, 203], 1.0) + 30_000.0), "far from zero");
            check(&(random(kind, &[3, 203], 1.0) - 30_000.0), "far below zero");
            check(&random(kind, &[3, 203], 1e-4), "almost equal");
            check(&Tensor::full([3, 203], 60_000.0, (kind, Device::Cpu)), "all equal");
        }
        // Excluded classes, whole vectors of them, and the target alone.
        let mut logits = random(kind, &[3, 1600], 2.0);
        _ = logits.narrow(1, 16, 700).fill_(f64::NEG_INFINITY);
        _ = logits.narrow(1, 0, 5).fill_(f64::NEG_INFINITY);
        check(&logits, &[9, 1599, 716], 0.0, "some are -inf");
        _ = logits.fill_(f64::NEG_INFINITY);
        _ = logits.narrow(1, 7, 1).fill_(3.0);
        check(&logits, &[7, 7, 7], 0.0, "all others are -inf");
        check(&random(kind, &[3, 1], 2.0), &[0, 0, 0], 0.1, "one class");
    }
}

#[test]
fn cross_entropy_shows_what_is_wrong() {
    let _generator = seeded(9);
    for (kind, _) in KINDS {
        let loss_of = |value: f64, target: i64| {
            let logits = random(kind, &[1, 40], 1.0);
            _ = logits.narrow(1, 3, 1).fill_(value);
            let [loss] = run("cross_entropy", &[Some(&logits), Some(&Tensor::from_slice(&[target]))], &[0.0]);
            f64::try_from(loss.get(0)).unwrap()
        };
        assert!(loss_of(0.5, 3).is_finite());
        for (value, target) in [(f64::NAN, 1), (f64::INFINITY, 1), (0.5, 40), (0.5, -1)] {
            assert!(loss_of(value, target).is_nan(), "{value}, target {target}");
        }
    }
    let logits = random(Kind::Float, &[2, 40], 1.0);
    for (logits, targets, part) in [
        (&logits, Tensor::from_slice(&[1i64]), "expected [2], got [1]"),
        (&logits, Tensor::from_slice(&[1i32, 2]), "targets are int"),
        (&logits.tr(), Tensor::from_slice(&[1i64, 2]), "expected contiguous logits"),
    ] {
        let error = call("cross_entropy", &[Some(logits), Some(&targets)], &[0.0], 0).expect_err("it is wrong");
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn sum_of_squares_is_exact_in_fp64() {
    let _generator = seeded(3);
    let check = |x: &Tensor, what: &str| {
        let want = f64::try_from(double(x).square().sum(Kind::Double)).unwrap();
        let [got] = run("sum_of_squares", &[Some(x)], &[]);
        assert_eq!((got.kind(), got.dim()), (Kind::Double, 0));
        let got = f64::try_from(&got).unwrap();
        assert!(got == want || (got - want).abs() <= 1e-12 * want, "{what}: {got} instead of {want}");
    };
    for (kind, _) in KINDS {
        for n in [0, 1, 3, 8, 31, 4096, 12_293, 300_001] {
            let x = random(kind, &[n + 1], 1.0);
            check(&x.narrow(0, 0, n), &format!("{kind:?}, {n} elements"));
            check(&x.narrow(0, 1, n), &format!("{kind:?}, {n} elements that are not aligned"));
        }
        let largest = if kind == Kind::Half { 60_000.0 } else { 3e38 };
        check(&Tensor::full([1000], largest, (kind, Device::Cpu)), "squares beyond fp32");
        let x = Tensor::full([100_000], 1e-4, (kind, Device::Cpu));
        _ = x.narrow(0, 0, 1).fill_(30_000.0);
        check(&x, "small squares beside a large one");
    }
    check(&random(Kind::Float, &[5_000_003], 1.0), "as many blocks as there are");
    for bad in [f64::NAN, f64::INFINITY] {
        let x = Tensor::zeros([1000], (Kind::BFloat16, Device::Cpu));
        _ = x.narrow(0, 777, 1).fill_(bad);
        let [got] = run("sum_of_squares", &[Some(&x)], &[]);
        assert!(!f64::try_from(&got).unwrap().is_finite());
        assert!(same(&got, &run::<1>("sum_of_squares", &[Some(&x)], &[])[0]) || bad.is_nan());
    }
}
