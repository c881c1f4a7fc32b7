//! Metrics of multi-label classification: accuracy, macro and micro F1.

use super::match_counts::{MatchCounts, ratio};

/// Counts per label, and the number of examples with exactly the correct labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiLabel {
    exact: u64,
    total: u64,
    /// `[labels]`.
    hits: Vec<MatchCounts>,
}

impl MultiLabel {
    /// Creates zero counts for labels `0..n_labels`.
    pub fn new(n_labels: usize) -> Self {
        MultiLabel { exact: 0, total: 0, hits: vec![MatchCounts::default(); n_labels] }
    }

    /// Creates them from counts in the order of [`MultiLabel::counts`].
    ///
    /// # Panics
    /// If there are not `2 + 3 * labels` counts.
    pub fn from_counts(counts: &[u64]) -> Self {
        let (&[exact, total], counts) = counts.split_first_chunk().expect("two counts of examples");
        let (triples, rest) = counts.as_chunks();
        assert!(rest.is_empty(), "three counts for each label");
        let hits = triples.iter().map(|&[correct, predicted, labelled]| MatchCounts { correct, predicted, labelled });
        MultiLabel { exact, total, hits: hits.collect() }
    }

    /// Counts one example, given whether it has each label, and a score per label. A label is predicted if its score is
    /// at least `threshold` (0 for logits and probability 0.5).
    ///
    /// # Panics
    /// If `labels` or `scores` has a wrong length.
    pub fn add(&mut self, labels: &[bool], scores: &[f32], threshold: f32) {
        assert!(labels.len() == self.hits.len() && scores.len() == self.hits.len(), "one of each for every label");
        let mut exact = true;
        for ((hits, &labelled), &score) in self.hits.iter_mut().zip(labels).zip(scores) {
            let predicted = score >= threshold;
            exact &= predicted == labelled;
            *hits += MatchCounts {
                correct: u64::from(predicted && labelled),
                predicted: u64::from(predicted),
                labelled: u64::from(labelled),
            };
        }
        self.exact += u64::from(exact);
        self.total += 1;
    }

    /// Returns `[2 + labels * 3]`: exactly correct examples, all examples, then correct, predicted and labelled
    /// examples of each label, to be summed over ranks.
    pub fn counts(&self) -> Vec<u64> {
        let of_labels = self.hits.iter().flat_map(|h| [h.correct, h.predicted, h.labelled]);
        [self.exact, self.total].into_iter().chain(of_labels).collect()
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the counts of each label, from which precision, recall and F1 follow.
    pub fn labels(&self) -> &[MatchCounts] {
        &self.hits
    }

    /// Subset accuracy: fraction of examples with exactly the correct labels, in [0, 1]; 0 without examples.
    /// scikit-learn's `accuracy_score` of indicator matrices.
    pub fn accuracy(&self) -> f64 {
        ratio(self.exact, self.total)
    }

    /// Unweighted mean of the labels' F1 scores. A label that occurs in neither truth nor prediction counts as 0,
    /// unlike in [`Confusion::macro_f1`](super::Confusion::macro_f1). scikit-learn's `f1_score` of indicator
    /// matrices with `average="macro", zero_division=0`.
    pub fn macro_f1(&self) -> f64 {
        if self.hits.is_empty() {
            0.0
        } else {
            self.hits.iter().map(MatchCounts::f1).sum::<f64>() / self.hits.len() as f64
        }
    }

    /// F1 over the total counts of all labels. scikit-learn's with `average="micro", zero_division=0`.
    pub fn micro_f1(&self) -> f64 {
        self.hits.iter().copied().sum::<MatchCounts>().f1()
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{close, counts, list, number, numbers};
    use super::*;

    #[test]
    fn scores_match_scikit_learn() {
        for case in list(include_str!("../../tests/reference/metrics/classes.json"), "multi_label") {
            let f1 = numbers(&case["f1"]);
            let threshold = number(&case["threshold"]) as f32;
            let mut whole = MultiLabel::new(f1.len());
            let mut halves = [whole.clone(), whole.clone()];
            let rows = case["gold"].as_array().unwrap().iter().zip(case["scores"].as_array().unwrap());
            for (number, (gold, scores)) in rows.enumerate() {
                let gold: Vec<bool> = counts::<u64>(gold).into_iter().map(|c| c == 1).collect();
                let scores: Vec<f32> = numbers(scores).into_iter().map(|s| s as f32).collect();
                whole.add(&gold, &scores, threshold);
                halves[number % 2].add(&gold, &scores, threshold);
            }
            close(whole.accuracy(), number(&case["accuracy"]), &case);
            close(whole.micro_f1(), number(&case["micro_f1"]), &case);
            close(whole.macro_f1(), number(&case["macro_f1"]), &case);
            whole.labels().iter().zip(&f1).for_each(|(label, &f1)| close(label.f1(), f1, &case));

            let sum: Vec<u64> = halves[0].counts().iter().zip(halves[1].counts()).map(|(a, b)| a + b).collect();
            assert_eq!(MultiLabel::from_counts(&sum), whole, "ranks add up counts");
        }
    }

    #[test]
    fn no_examples_give_zeros() {
        for n_labels in [0, 3] {
            let none = MultiLabel::new(n_labels);
            assert_eq!((none.accuracy(), none.macro_f1(), none.micro_f1(), none.total()), (0.0, 0.0, 0.0, 0));
        }
    }

    #[test]
    #[should_panic(expected = "one of each for every label")]
    fn labels_and_scores_must_have_the_same_length() {
        MultiLabel::new(2).add(&[true, false], &[0.5], 0.5);
    }
}
