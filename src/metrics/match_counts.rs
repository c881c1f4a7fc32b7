//! Precision, recall and F1 from three counts.

use std::ops::{Add, AddAssign};

/// Counts of matches between predictions and labels: of entities, examples with a label, or words of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MatchCounts {
    /// True positives.
    pub correct: u64,
    /// Predicted positives.
    pub predicted: u64,
    /// Actual positives.
    pub labelled: u64,
}

impl MatchCounts {
    /// Fraction of the predicted positives that are correct, in [0, 1]; 0 without predicted positives.
    pub fn precision(&self) -> f64 {
        ratio(self.correct, self.predicted)
    }

    /// Fraction of the actual positives that are predicted, in [0, 1]; 0 without actual positives.
    pub fn recall(&self) -> f64 {
        ratio(self.correct, self.labelled)
    }

    /// Harmonic mean of precision and recall, in [0, 1]; 0 without predicted and actual positives.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.correct, self.predicted + self.labelled)
    }
}

impl Add for MatchCounts {
    type Output = MatchCounts;

    fn add(self, other: MatchCounts) -> MatchCounts {
        MatchCounts {
            correct: self.correct + other.correct,
            predicted: self.predicted + other.predicted,
            labelled: self.labelled + other.labelled,
        }
    }
}

impl AddAssign for MatchCounts {
    fn add_assign(&mut self, other: MatchCounts) {
        *self = *self + other;
    }
}

impl std::iter::Sum for MatchCounts {
    fn sum<I: Iterator<Item = MatchCounts>>(hits: I) -> MatchCounts {
        hits.fold(MatchCounts::default(), MatchCounts::add)
    }
}

/// Returns `part / whole`, or 0 if `whole` is 0.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
