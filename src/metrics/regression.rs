//! Pearson and Spearman correlation, and mean squared error.

/// Pearson correlation coefficient, in [-1, 1]. `None` if undefined: fewer than two points, a constant input, or a
/// number that is not finite. scipy's `pearsonr`.
///
/// # Panics
/// If the two slices differ in length.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "as many predictions as values");
    let (x, y) = (direction(x)?, direction(y)?);
    let r: f64 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
    Some(r.clamp(-1.0, 1.0))
}

/// Spearman rank correlation, in [-1, 1]: the Pearson correlation of the ranks, with average ranks for ties. `None` as
/// for [`pearson`]. scipy's `spearmanr`.
///
/// # Panics
/// If the two slices differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "as many predictions as values");
    pearson(&ranks(x)?, &ranks(y)?)
}

/// Mean squared error. `None` without points, or if the result is not finite.
///
/// # Panics
/// If the two slices differ in length.
pub fn mse(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "as many predictions as values");
    let sum: f64 = x.iter().zip(y).map(|(a, b)| (a - b) * (a - b)).sum();
    Some(sum / x.len() as f64).filter(|mean| mean.is_finite())
}

/// Returns `values` minus their mean, scaled to length 1; `None` if they are constant or not finite.
fn direction(values: &[f64]) -> Option<Vec<f64>> {
    // Compare the values themselves: due to rounding of the mean, a constant input can have a tiny variance.
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let mut centred: Vec<f64> = values.iter().map(|v| v - mean).collect();
    // Scale the largest value to 1 first, so that no square overflows or underflows.
    let largest = centred.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    centred.iter_mut().for_each(|v| *v /= largest);
    let length = centred.iter().map(|v| v * v).sum::<f64>().sqrt();
    centred.iter_mut().for_each(|v| *v /= length);
    centred.iter().all(|v| v.is_finite()).then_some(centred)
}

/// Returns the ranks from 1, with average ranks for ties; `None` if a value is NaN.
fn ranks(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for ties in order.chunk_by(|&a, &b| values[a] == values[b]) {
        // The mean of before + 1 ..= before + ties.len().
        let rank = before as f64 + (ties.len() + 1) as f64 / 2.0;
        ties.iter().for_each(|&i| ranks[i] = rank);
        before += ties.len();
    }
    Some(ranks)
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, list, number, numbers};
    use super::*;

    const X: [f64; 7] = [2.5, 0.1, 4.0, 3.3, 5.0, 1.7, 4.0];
    const Y: [f64; 7] = [2.0, 0.4, 3.6, 3.9, 4.4, 2.2, 3.6];

    fn close(found: Option<f64>, expected: f64) {
        let found = found.expect("defined");
        assert!((found - expected).abs() < 1e-14, "found {found}, expected {expected}");
    }

    // Expected values: scipy 1.17.1, pearsonr(x, y)[0] and spearmanr(x, y)[0]; scikit-learn 1.9.1,
    // mean_squared_error(y, x).
    #[test]
    fn values_match_scipy() {
        close(pearson(&X, &Y), 0.9565086823997123);
        close(spearman(&X, &Y), 0.8545454545454546);
        close(mse(&X, &Y), 0.23285714285714285);
    }

    #[test]
    fn values_match_scipy_with_many_ties() {
        let (x, y) = ([1.0, 1.0, 2.0, 2.0, 2.0, 3.0], [6.0, 1.0, 5.0, 5.0, 0.5, -2.0]);
        close(pearson(&x, &y), -0.5327093543483294);
        close(spearman(&x, &y), -0.6262242910851495);
        close(mse(&x, &y), 11.708333333333334);
    }

    #[test]
    fn values_match_scipy_on_random_numbers() {
        for case in list(include_str!("../../tests/reference/metrics/numbers.json"), "cases") {
            let (x, y) = (numbers(&case["x"]), numbers(&case["y"]));
            for (name, found) in [("pearson", pearson(&x, &y)), ("spearman", spearman(&x, &y)), ("mse", mse(&x, &y))] {
                reference::close(found.expect("defined"), number(&case[name]), &case);
            }
        }
    }

    #[test]
    fn ties_have_their_average_rank() {
        assert_eq!(ranks(&[3.0, -1.0, 3.0, 0.0, -0.0]).unwrap(), [4.5, 1.0, 4.5, 2.5, 2.5]);
    }

    #[test]
    fn undefined_is_none() {
        let constant = [0.1; 7];
        for f in [pearson, spearman] {
            assert_eq!(f(&constant, &Y), None);
            assert_eq!(f(&X, &constant), None);
            assert_eq!(f(&[], &[]), None);
            assert_eq!(f(&[1.0], &[2.0]), None);
            assert_eq!(f(&[1.0, f64::NAN], &[1.0, 2.0]), None);
        }
        assert_eq!(pearson(&[1.0, f64::INFINITY], &[1.0, 2.0]), None);
        assert_eq!(mse(&[], &[]), None);
        assert_eq!(mse(&[f64::NAN], &[0.0]), None);
    }

    #[test]
    fn correlations_are_invariant_to_order_shift_and_scale() {
        let (mut x, mut y) = (X, Y);
        x.rotate_left(3);
        y.rotate_left(3);
        let shifted: Vec<f64> = X.iter().map(|v| 3.0 * v - 7.0).collect();
        let negated: Vec<f64> = X.iter().map(|v| -v).collect();
        for f in [pearson, spearman] {
            let r = f(&X, &Y).unwrap();
            close(f(&x, &y), r);
            close(f(&Y, &X), r);
            close(f(&shifted, &Y), r);
            close(f(&negated, &Y), -r);
        }
    }

    #[test]
    fn spearman_depends_only_on_the_order() {
        let bent: Vec<f64> = X.iter().map(|v| v.exp()).collect();
        assert_eq!(spearman(&bent, &Y), spearman(&X, &Y));
    }

    #[test]
    fn very_large_and_very_small_numbers() {
        let large: Vec<f64> = X.iter().map(|v| v * 1e300).collect();
        let small: Vec<f64> = Y.iter().map(|v| v * 1e-300).collect();
        close(pearson(&large, &small), 0.9565086823997123);
    }
}
