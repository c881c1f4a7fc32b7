//! Precision, recall and F1 of each class, and the confusion matrix.

use super::{Confusion, MatchCounts};

/// What an evaluation found for each class, as scikit-learn's `classification_report` and `confusion_matrix`, and
/// seqeval's `classification_report`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassReport {
    /// What the counts are numbers of: `examples`, `words` or `entities`.
    pub unit: &'static str,
    /// The name and the counts of each class.
    pub classes: Vec<(String, MatchCounts)>,
    /// The names of the confusion matrix's rows and columns, and the matrix.
    pub confusion: Option<(Vec<String>, Confusion)>,
}

/// Precision, recall and F1, each in [0, 1].
pub type Scores = [f64; 3];

fn scores(counts: &MatchCounts) -> Scores {
    [counts.precision(), counts.recall(), counts.f1()]
}

impl ClassReport {
    /// Creates the report of single-label classes with these names.
    pub fn of_confusion(unit: &'static str, names: Vec<String>, confusion: Confusion) -> Self {
        let classes = names.iter().cloned().zip(confusion.match_counts()).collect();
        ClassReport { unit, classes, confusion: Some((names, confusion)) }
    }

    /// Returns the scores of each class.
    pub fn scores(&self) -> impl Iterator<Item = (&str, Scores, u64)> {
        self.classes.iter().map(|(name, counts)| (name.as_str(), scores(counts), counts.labelled))
    }

    /// Returns the scores of the total counts: `micro avg`.
    pub fn micro(&self) -> Scores {
        scores(&self.classes.iter().map(|(_, counts)| *counts).sum())
    }

    /// Returns the mean of the scores over the classes that occur in truth or prediction: `macro avg`.
    pub fn macro_average(&self) -> Scores {
        self.average(|_| 1.0)
    }

    /// Returns the mean of the scores, weighted by the number of actual positives: `weighted avg`.
    pub fn weighted_average(&self) -> Scores {
        self.average(|counts| counts.labelled as f64)
    }

    fn average(&self, weight: impl Fn(&MatchCounts) -> f64) -> Scores {
        let occurring = || self.classes.iter().map(|(_, counts)| counts).filter(|c| c.labelled + c.predicted > 0);
        let all: f64 = occurring().map(&weight).sum();
        let mut sums = [0.0; 3];
        for counts in occurring() {
            sums.iter_mut().zip(scores(counts)).for_each(|(sum, score)| *sum += weight(counts) * score);
        }
        sums.map(|sum| if all > 0.0 { sum / all } else { 0.0 })
    }

    /// Returns the most frequent confusions: true class, predicted class, how often; at most `most`.
    pub fn errors(&self, most: usize) -> Vec<(&str, &str, u64)> {
        let Some((names, confusion)) = &self.confusion else { return Vec::new() };
        let n = names.len();
        let cells = confusion.counts().iter().enumerate().map(|(i, &count)| (i / n, i % n, count));
        let mut errors: Vec<_> = cells.filter(|(label, found, count)| label != found && *count > 0).collect();
        // Stable: of equal counts the first class comes first.
        errors.sort_by_key(|(.., count)| std::cmp::Reverse(*count));
        errors.truncate(most);
        errors.into_iter().map(|(label, found, count)| (names[label].as_str(), names[found].as_str(), count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_scikit_learn() {
        // classification_report([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0], labels=[0, 1, 2, 3], zero_division=0), where
        // class 3 occurs nowhere and is left out of the macro average.
        let pairs = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (2, 0)];
        let names = ["a", "b", "c", "d"].map(String::from).to_vec();
        let report = ClassReport::of_confusion("examples", names, Confusion::from_pairs(4, pairs));
        let found: Vec<_> = report.scores().collect();
        assert_eq!(found[0], ("a", [0.5, 2.0 / 3.0, 4.0 / 7.0], 3));
        assert_eq!(found[1], ("b", [0.5, 0.5, 0.5], 2));
        assert_eq!((found[2], found[3]), (("c", [0.0; 3], 1), ("d", [0.0; 3], 0)));
        let close = |found: Scores, expected: Scores| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close(report.macro_average(), [0.333_333_333, 0.388_888_889, 0.357_142_857]));
        assert!(close(report.weighted_average(), [0.416_666_667, 0.5, 0.452_380_952]));
        assert_eq!(report.micro(), [0.5; 3]);
        assert_eq!(report.errors(9), [("a", "b", 1), ("b", "a", 1), ("c", "a", 1)]);
        assert_eq!(report.errors(1).len(), 1);
    }

    #[test]
    fn nothing_is_zero() {
        let report = ClassReport { unit: "entities", classes: Vec::new(), confusion: None };
        assert_eq!((report.micro(), report.macro_average(), report.weighted_average()), ([0.0; 3], [0.0; 3], [0.0; 3]));
        assert!(report.errors(3).is_empty());
    }
}
