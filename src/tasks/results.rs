//! What a model made of a whole data set.

use crate::data::Dataset;
use serde_json::Value;

/// The answers to every example of a data set, in its order, and the loss; the same on every rank.
#[derive(Clone, Copy)]
pub struct Results<'a> {
    pub dataset: &'a Dataset,
    /// What the task's reader left for its metrics ([`crate::data::Facts::references`]).
    pub references: &'a Value,
    /// The numbers of all answers.
    pub answers: &'a [f32],
    /// `[N + 1]`: where each example's numbers begin.
    pub offsets: &'a [usize],
    /// The mean of each term of the loss; empty without labels.
    pub losses: &'a [f64],
}

impl<'a> Results<'a> {
    /// The numbers that [`super::Task::answers`] gave for example `i`.
    pub fn answer(&self, i: usize) -> &'a [f32] {
        &self.answers[self.offsets[i]..self.offsets[i + 1]]
    }

    /// All answers in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [f32]> + 'a {
        let (answers, offsets) = (self.answers, self.offsets);
        offsets.windows(2).map(move |pair| &answers[pair[0]..pair[1]])
    }
}
