//! Results of a model on a whole data set.

use crate::data::Dataset;
use serde_json::Value;

/// The answers for every example of a data set, in its order, and the loss; the same on every rank.
#[derive(Clone, Copy)]
pub struct Results<'a> {
    pub dataset: &'a Dataset,
    /// The data stored on encoding for the task's metrics ([`crate::data::Facts::references`]).
    pub references: &'a Value,
    /// The values of all answers, flat.
    pub answers: &'a [f32],
    /// `[N + 1]`: start of each example's values in `answers`.
    pub offsets: &'a [usize],
    /// The mean of each term of the loss; empty without labels.
    pub losses: &'a [f64],
}

impl<'a> Results<'a> {
    /// Returns the values of [`super::Task::answers`] for example `i`.
    pub fn answer(&self, i: usize) -> &'a [f32] {
        &self.answers[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Iterates over all answers in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [f32]> + 'a {
        let (answers, offsets) = (self.answers, self.offsets);
        offsets.windows(2).map(move |pair| &answers[pair[0]..pair[1]])
    }
}
