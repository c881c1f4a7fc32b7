//! Threshold-independent metrics of binary classification: ROC-AUC and average precision.

/// Positive and negative examples ranked by score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// For each distinct score in descending order, the number of positive and of negative examples.
    counts: Vec<[u64; 2]>,
}

impl Ranking {
    /// Ranks (score, is positive) pairs. Returns `None` if a score is NaN.
    pub fn new(examples: impl IntoIterator<Item = (f64, bool)>) -> Option<Self> {
        let mut examples: Vec<(f64, bool)> = examples.into_iter().collect();
        if examples.iter().any(|(score, _)| score.is_nan()) {
            return None;
        }
        examples.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let count = |ties: &[(f64, bool)]| {
            let positive = ties.iter().filter(|(_, is_positive)| *is_positive).count();
            [positive as u64, (ties.len() - positive) as u64]
        };
        Some(Ranking { counts: examples.chunk_by(|a, b| a.0 == b.0).map(count).collect() })
    }

    /// Area under the ROC curve, in [0, 1]: the fraction of pairs of a positive and a negative example in which the
    /// positive example has the higher score; ties count one half. `None` without examples of both classes. This is the
    /// Mann-Whitney U divided by the number of pairs, equal to scikit-learn's `roc_auc_score` (trapezoidal rule).
    pub fn roc_auc(&self) -> Option<f64> {
        let [positive, negative] = self.totals();
        let (mut below, mut halves) = (negative, 0);
        for [more_positive, more_negative] in &self.counts {
            below -= more_negative;
            halves += u128::from(*more_positive) * u128::from(2 * below + more_negative);
        }
        let pairs = u128::from(positive) * u128::from(negative);
        // The counts are exact and the result is rounded once, so the order of ties has no effect.
        (pairs > 0).then(|| halves as f64 / (2.0 * pairs as f64))
    }

    /// Average precision, in [0, 1]: the sum over all thresholds of precision times increase in recall, without
    /// interpolation; scikit-learn's `average_precision_score`, but `None` instead of 0 without positive examples.
    pub fn average_precision(&self) -> Option<f64> {
        let [positive, _] = self.totals();
        let (mut found, mut chosen, mut sum) = (0, 0, 0.0);
        for [more_positive, more_negative] in &self.counts {
            found += more_positive;
            chosen += more_positive + more_negative;
            sum += *more_positive as f64 * (found as f64 / chosen as f64);
        }
        (positive > 0).then(|| sum / positive as f64)
    }

    fn totals(&self) -> [u64; 2] {
        self.counts.iter().fold([0, 0], |all, more| [all[0] + more[0], all[1] + more[1]])
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, counts, list, number, numbers};
    use super::*;

    fn both(examples: &[(f64, bool)]) -> [Option<f64>; 2] {
        let ranking = Ranking::new(examples.iter().copied()).unwrap();
        [ranking.roc_auc(), ranking.average_precision()]
    }

    #[test]
    fn values_match_scikit_learn() {
        let (mut undefined, mut tied) = (0, 0);
        for case in list(include_str!("../../tests/reference/metrics/ranking.json"), "cases") {
            let scores = numbers(&case["scores"]);
            let labels = counts::<u64>(&case["labels"]).into_iter().map(|label| label == 1);
            let ranking = Ranking::new(scores.iter().copied().zip(labels)).unwrap();
            tied += usize::from(ranking.counts.len() < scores.len());
            for (name, found) in [("roc_auc", ranking.roc_auc()), ("average_precision", ranking.average_precision())] {
                match found {
                    Some(found) => reference::close(found, number(&case[name]), &case),
                    None => assert!(case[name].is_null(), "{name}: {case}"),
                }
                undefined += usize::from(found.is_none());
            }
        }
        assert!(undefined >= 3 && tied >= 10, "{undefined} undefined, {tied} with equal scores");
    }

    #[test]
    fn by_hand() {
        // The pairs (1, 0), (1, 0): one win and one tie.
        assert_eq!(both(&[(0.9, true), (0.9, false), (0.1, false)]), [Some(0.75), Some(0.5)]);
        assert_eq!(both(&[(2.0, true), (1.0, false), (0.0, true)]), [Some(0.5), Some((1.0 + 2.0 / 3.0) / 2.0)]);
        // All scores equal: 0.5, and the fraction of positive examples.
        assert_eq!(both(&[(0.0, true), (-0.0, false), (0.0, false), (0.0, false)]), [Some(0.5), Some(0.25)]);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(both(&[]), [None, None]);
        assert_eq!(both(&[(0.3, false), (0.1, false)]), [None, None]);
        assert_eq!(both(&[(0.3, true), (0.1, true)]), [None, Some(1.0)]);
        assert_eq!(Ranking::new([(f64::NAN, true), (0.0, false)]), None);
        assert_eq!(both(&[(f64::INFINITY, true), (f64::NEG_INFINITY, false)]), [Some(1.0), Some(1.0)]);
    }

    #[test]
    fn values_are_invariant_to_order_and_scale() {
        let examples: Vec<(f64, bool)> =
            (0..200).map(|i| (f64::from(i * 37 % 23), (i * 53 % 7) < 3 || i % 23 > 17)).collect();
        let expected = both(&examples);
        let backwards: Vec<_> = examples.iter().rev().copied().collect();
        let scaled: Vec<_> = examples.iter().map(|(score, positive)| (score.exp() - 4.0, *positive)).collect();
        assert_eq!([both(&backwards), both(&scaled)], [expected; 2]);
        // Swapped classes and reversed order: the same pairs.
        let swapped: Vec<_> = examples.iter().map(|(score, positive)| (-score, !positive)).collect();
        assert_eq!(both(&swapped)[0], expected[0]);
    }
}
