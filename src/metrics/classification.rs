//! Accuracy, F1 (macro, micro, binary) and Matthews correlation, from a confusion matrix.

use super::match_counts::{MatchCounts, ratio};

/// A confusion matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    n_labels: usize,
    /// `[n_labels, n_labels]`, row by row: the row is the true label, the column the prediction.
    counts: Vec<u64>,
}

impl Confusion {
    /// Creates a matrix of zeros for labels `0..n_labels`.
    pub fn new(n_labels: usize) -> Self {
        Confusion { n_labels, counts: vec![0; n_labels * n_labels] }
    }

    /// Creates the matrix of (label, prediction) pairs.
    pub fn from_pairs(n_labels: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut confusion = Confusion::new(n_labels);
        pairs.into_iter().for_each(|(label, prediction)| confusion.add(label, prediction));
        confusion
    }

    /// Creates the matrix from counts in the order of [`Confusion::counts`].
    ///
    /// # Panics
    /// If there are not `n_labels * n_labels` counts.
    pub fn from_counts(n_labels: usize, counts: Vec<u64>) -> Self {
        assert_eq!(counts.len(), n_labels * n_labels, "counts of a confusion matrix over {n_labels} labels");
        Confusion { n_labels, counts }
    }

    /// Counts one example.
    ///
    /// # Panics
    /// If `label` or `prediction` is not below the number of labels.
    pub fn add(&mut self, label: usize, prediction: usize) {
        let n = self.n_labels;
        assert!(label < n && prediction < n, "label {label} or prediction {prediction} is not below {n}");
        self.counts[label * n + prediction] += 1;
    }

    /// Returns `[n_labels * n_labels]`, row by row (row: true label, column: prediction), to be summed over ranks.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Fraction of correctly predicted examples, in [0, 1]; 0 without examples.
    pub fn accuracy(&self) -> f64 {
        ratio(self.correct(), self.total())
    }

    /// Unweighted mean of the labels' F1 scores, over the labels that occur in truth or prediction; 0 without examples.
    /// scikit-learn's `f1_score(average="macro", zero_division=0)`.
    pub fn macro_f1(&self) -> f64 {
        let scores: Vec<f64> =
            self.match_counts().filter(|hits| hits.labelled + hits.predicted > 0).map(|hits| hits.f1()).collect();
        if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
    }

    /// F1 over the total counts of all labels. With one label and one prediction per example, a false positive of one
    /// label is a false negative of another, so this equals the accuracy. scikit-learn's `f1_score(average="micro")`.
    pub fn micro_f1(&self) -> f64 {
        self.match_counts().sum::<MatchCounts>().f1()
    }

    /// F1 of one label, in [0, 1]; 0 if it occurs in neither truth nor prediction. For label 1 of two, scikit-learn's
    /// `f1_score(average="binary", zero_division=0)`.
    ///
    /// # Panics
    /// If there is no such label.
    pub fn f1_of(&self, label: usize) -> f64 {
        self.match_counts().nth(label).unwrap_or_else(|| panic!("label {label} is not below {}", self.n_labels)).f1()
    }

    /// Returns the single label predicted for all examples, although the examples have several labels.
    pub fn only_prediction(&self) -> Option<usize> {
        let labelled = (0..self.n_labels).filter(|&k| self.labelled(k) > 0).count();
        let mut predicted = (0..self.n_labels).filter(|&k| self.predicted(k) > 0);
        let first = predicted.next();
        first.filter(|_| labelled > 1 && predicted.next().is_none())
    }

    /// Matthews correlation coefficient for any number of labels, in [-1, 1]; 0 if undefined (all labels or all
    /// predictions are equal). Gorodkin 2004, "Comparing two K-category assignments by a K-category
    /// correlation coefficient"; scikit-learn's `matthews_corrcoef`.
    pub fn matthews(&self) -> f64 {
        let total = i128::from(self.total());
        let (mut covariance, mut of_labels, mut of_predictions) =
            (i128::from(self.correct()) * total, total * total, total * total);
        for k in 0..self.n_labels {
            let (labelled, predicted) = (i128::from(self.labelled(k)), i128::from(self.predicted(k)));
            covariance -= labelled * predicted;
            of_labels -= labelled * labelled;
            of_predictions -= predicted * predicted;
        }
        if of_labels == 0 || of_predictions == 0 {
            return 0.0;
        }
        covariance as f64 / ((of_labels as f64).sqrt() * (of_predictions as f64).sqrt())
    }

    /// Returns the counts of each label.
    pub fn match_counts(&self) -> impl Iterator<Item = MatchCounts> {
        let of = |k| MatchCounts { correct: self.at(k, k), predicted: self.predicted(k), labelled: self.labelled(k) };
        (0..self.n_labels).map(of)
    }

    fn at(&self, label: usize, prediction: usize) -> u64 {
        self.counts[label * self.n_labels + prediction]
    }

    fn correct(&self) -> u64 {
        (0..self.n_labels).map(|k| self.at(k, k)).sum()
    }

    fn labelled(&self, label: usize) -> u64 {
        (0..self.n_labels).map(|prediction| self.at(label, prediction)).sum()
    }

    fn predicted(&self, prediction: usize) -> u64 {
        (0..self.n_labels).map(|label| self.at(label, prediction)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, counts, list, number};
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-14, "found {found}, expected {expected}");
    }

    /// Returns `[accuracy, macro F1, Matthews]`.
    fn scores(c: &Confusion) -> [f64; 3] {
        [c.accuracy(), c.macro_f1(), c.matthews()]
    }

    fn check(n_labels: usize, labels: &[usize], predictions: &[usize], expected: [f64; 3]) {
        let pairs = labels.iter().copied().zip(predictions.iter().copied());
        let found = scores(&Confusion::from_pairs(n_labels, pairs));
        found.into_iter().zip(expected).for_each(|(f, e)| close(f, e));
    }

    // Expected values: scikit-learn 1.9.1, accuracy_score(y, p), f1_score(y, p, average="macro", zero_division=0),
    // matthews_corrcoef(y, p).
    const MANY: [f64; 3] = [0.6666666666666666, 0.6761904761904762, 0.5607721540920443];
    const TWO: [f64; 3] = [0.75, 0.7333333333333334, 0.4666666666666667];
    const PARTLY_ABSENT: [f64; 3] = [0.6, 0.375, 0.4375];
    const CONSTANT: [f64; 3] = [0.75, 0.42857142857142855, 0.0];

    const LABELS: [usize; 12] = [0, 1, 2, 2, 1, 0, 3, 3, 3, 1, 0, 2];
    const PREDICTIONS: [usize; 12] = [0, 2, 2, 2, 1, 1, 3, 0, 3, 1, 0, 1];

    #[test]
    fn many_labels() {
        check(4, &LABELS, &PREDICTIONS, MANY);
    }

    #[test]
    fn scores_match_scikit_learn() {
        for case in list(include_str!("../../tests/reference/metrics/classes.json"), "single") {
            let (labels, predictions) = (counts(&case["labels"]), counts::<usize>(&case["predictions"]));
            let n_labels = case["n_labels"].as_u64().unwrap() as usize;
            let c = Confusion::from_pairs(n_labels, labels.into_iter().zip(predictions));
            for (name, found) in ["accuracy", "macro_f1", "matthews", "micro_f1"]
                .iter()
                .zip(scores(&c).into_iter().chain([c.micro_f1()]))
            {
                reference::close(found, number(&case[name]), &case);
            }
        }
    }

    #[test]
    fn two_labels() {
        check(2, &[1, 1, 1, 0, 0, 1, 0, 1], &[1, 0, 1, 0, 1, 1, 0, 1], TWO);
    }

    #[test]
    fn a_label_that_is_only_predicted_counts_and_one_that_never_occurs_does_not() {
        check(5, &[0, 0, 1, 1, 3], &[0, 2, 1, 1, 0], PARTLY_ABSENT);
    }

    #[test]
    fn constant_labels_or_predictions() {
        check(2, &[1, 1, 0, 1], &[1, 1, 1, 1], CONSTANT);
        check(2, &[1, 1, 1, 1], &[1, 0, 1, 1], CONSTANT);
    }

    #[test]
    fn f1_of_the_second_of_two_labels() {
        // scikit-learn 1.9.1, f1_score(y, p, average="binary", zero_division=0).
        let of = |labels: &[usize], predictions: &[usize]| {
            Confusion::from_pairs(2, labels.iter().copied().zip(predictions.iter().copied())).f1_of(1)
        };
        close(of(&[1, 1, 1, 0, 0, 1, 0, 1], &[1, 0, 1, 0, 1, 1, 0, 1]), 0.8);
        close(of(&[1, 0, 0, 1, 0, 0], &[1, 0, 1, 0, 0, 0]), 0.5);
        assert_eq!(of(&[1, 1], &[1, 1]), 1.0);
        assert_eq!(of(&[0, 0], &[0, 0]), 0.0);
        for case in list(include_str!("../../tests/reference/metrics/ranking.json"), "cases") {
            let (labels, predictions) = (counts(&case["labels"]), counts::<usize>(&case["predictions"]));
            reference::close(of(&labels, &predictions), number(&case["binary_f1"]), &case);
        }
    }

    #[test]
    fn a_single_predicted_label_is_detected() {
        let only = |pairs: &[(usize, usize)]| Confusion::from_pairs(3, pairs.iter().copied()).only_prediction();
        assert_eq!(only(&[(0, 2), (1, 2), (2, 2)]), Some(2));
        assert_eq!(only(&[(0, 1), (2, 1)]), Some(1));
        assert_eq!(only(&[(0, 2), (1, 2), (2, 1)]), None);
        // The only correct prediction.
        assert_eq!(only(&[(1, 1), (1, 1)]), None);
        assert_eq!(only(&[(1, 0), (1, 0)]), None);
        assert_eq!(only(&[]), None);
    }

    #[test]
    fn no_examples_give_zeros() {
        assert_eq!(scores(&Confusion::new(3)), [0.0; 3]);
    }

    #[test]
    fn large_counts_stay_exact() {
        let c = Confusion::from_counts(2, vec![3_000_000_000, 1_000_000_000, 500_000_000, 5_500_000_000]);
        close(c.accuracy(), 0.85);
        // (tp tn - fp fn) / sqrt((tp+fp) (tp+fn) (tn+fp) (tn+fn)), in units of 500 million.
        close(c.matthews(), (11.0 * 6.0 - 2.0 * 1.0) / (13.0f64 * 12.0 * 8.0 * 7.0).sqrt());
    }

    #[test]
    fn scores_are_invariant_to_renaming_labels() {
        let new_name = [2, 0, 3, 1];
        let pairs = LABELS.iter().zip(&PREDICTIONS).map(|(&y, &p)| (new_name[y], new_name[p]));
        let renamed = Confusion::from_pairs(4, pairs);
        scores(&renamed).into_iter().zip(MANY).for_each(|(f, e)| close(f, e));
    }

    #[test]
    fn scores_are_invariant_to_order_and_split_into_ranks() {
        let pairs: Vec<_> = LABELS.iter().copied().zip(PREDICTIONS.iter().copied()).collect();
        let whole = Confusion::from_pairs(4, pairs.iter().copied());
        assert_eq!(whole, Confusion::from_pairs(4, pairs.iter().rev().copied()));

        let (left, right) = (pairs[..5].to_vec(), pairs[5..].to_vec());
        let (left, right) = (Confusion::from_pairs(4, left), Confusion::from_pairs(4, right));
        let sum = left.counts().iter().zip(right.counts()).map(|(a, b)| a + b).collect();
        assert_eq!(whole, Confusion::from_counts(4, sum));
        assert_eq!(whole.total(), 12);
    }

    #[test]
    fn swapping_truth_and_prediction_keeps_the_symmetric_scores() {
        let swapped = Confusion::from_pairs(4, PREDICTIONS.into_iter().zip(LABELS));
        scores(&swapped).into_iter().zip(MANY).for_each(|(f, e)| close(f, e));
    }

    #[test]
    #[should_panic(expected = "prediction 7 is not below 2")]
    fn a_prediction_out_of_range_panics() {
        Confusion::new(2).add(1, 7);
    }
}
