//! Precision, recall and F1 from three counts.

use std::ops::{Add, AddAssign};

/// What was found of something: entities of a type, examples with a label, words of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MatchCounts {
    /// Those found that are right.
    pub correct: u64,
    /// Those found.
    pub predicted: u64,
    /// Those that are there, and were to be found.
    pub labelled: u64,
}

impl MatchCounts {
    /// The share of those found that are right, in [0, 1]; 0 where nothing was found.
    pub fn precision(&self) -> f64 {
        ratio(self.correct, self.predicted)
    }

    /// The share of those there that were found, in [0, 1]; 0 where nothing is there.
    pub fn recall(&self) -> f64 {
        ratio(self.correct, self.labelled)
    }

    /// The harmonic mean of precision and recall, in [0, 1]; 0 where nothing was found and nothing is there.
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

/// `part / whole`, 0 of nothing.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
