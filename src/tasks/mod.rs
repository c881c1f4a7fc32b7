//! Tasks: how records become examples, a head on a backbone, its loss, its metrics and what a prediction looks like.
//!
//! A head is task x role of a family, so a task knows no family and a family knows no task. A [`Task`] returns the loss
//! of each target; the training step divides their sum by the count over all ranks, so that the loss of a global batch
//! does not depend on how it was split.

pub mod answers;
pub mod causal_texts;
pub mod chat;
pub mod choices;
pub mod corpus;
pub mod head;
pub mod labels;
pub mod masked_lm;
pub mod masked_texts;
pub mod model;
pub mod multi_label;
pub mod multiple_choice;
pub mod next_token;
pub mod packing;
pub mod parallel_texts;
pub mod prompts;
pub mod question_answering;
pub mod questions;
pub mod regression;
pub mod results;
pub mod sentence_pairs;
pub mod sequence_classification;
pub mod tagged_words;
pub mod texts;
pub mod token_classification;

mod classes;
mod classifier;
#[cfg(test)]
mod letters;
mod sieve;

pub use classifier::Classifier;
pub use head::Head;
pub use model::Model;
pub use results::Results;

use crate::data::Dataset;
use crate::data::batch::Batch;
use crate::data::extent::Extents;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx};
use serde_json::{Map, Value};
use tch::Tensor;

/// A number as JSON with the digits that an f32 has, not those of its f64 neighbour.
pub fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

/// What a model is fine-tuned to do.
pub trait Task: Send + Sync {
    /// The name in `task.kind`.
    fn kind(&self) -> &'static str;

    /// The head, from the last stage's border; of the type that the model computes in.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary;

    /// What the head's stage and the loss cost. A head on a summary, unless a task says otherwise: a few numbers for each
    /// sequence, which are not counted.
    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        backbone.head_cost(Reads::Summary, x, how)
    }

    /// How many terms the loss has.
    fn terms(&self) -> usize {
        1
    }

    /// The terms of the loss, from f32 logits: of each term the loss of every target, f32 `[n]`, n as in
    /// [`Batch::counts`]. The loss is the sum of the terms' means, which is the loss that `transformers` reports.
    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor>;

    /// What evaluation and prediction keep of the f32 logits: f32, flat, example by example, of each as many numbers as
    /// [`Task::answer_size`] says. The logits themselves, unless a task says otherwise.
    fn answers(&self, logits: &Boundary, _: &Batch) -> Tensor {
        logits[0].view(-1)
    }

    /// The numbers that [`Task::answers`] gives for example `i`; the same on every rank.
    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize;

    /// The task's metrics beside the loss.
    fn metrics(&self, results: &Results) -> Metrics;

    /// The label that metrics of two labels are about: the second, as in scikit-learn.
    fn positive_label(&self) -> Option<&str> {
        None
    }

    /// What is probably wrong with a model that answers so, and what to do.
    fn warning(&self, _: &Results) -> Option<String> {
        None
    }

    /// The lines that `predict` writes, one a record; with `scores` the numbers behind them too.
    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>>;

    /// What the task writes into `config.json` (labels, problem type).
    fn config_entries(&self) -> Map<String, Value>;
}

/// The index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

/// Probabilities of a row of logits.
fn softmax(row: &[f32]) -> Vec<f64> {
    let max = row.get(argmax(row)).copied().unwrap_or_default();
    let exps: Vec<f64> = row.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|x| x / sum).collect()
}

/// A row of logits as JSON.
fn logits_json(row: &[f32]) -> Value {
    row.iter().copied().map(short).collect()
}

/// What a head costs that gives so many rows so many scores, with their cross entropy: there are the scores, their
/// logarithms, and the gradients of both, in fp32.
fn scores_cost(head: Cost, rows: f64, classes: usize) -> Cost {
    let scores = 4.0 * rows * classes as f64;
    Cost::keep(scores).then(head).then(Cost::op(scores, scores, scores, [0.0; 2]))
}

/// Cross entropy of each row, f32 `[n]`: logits `[n, C]`, classes i64 `[n]`.
fn cross_entropy(logits: &Tensor, classes: &Tensor) -> Tensor {
    logits.cross_entropy_loss::<Tensor>(classes, None, tch::Reduction::None, -100, 0.0)
}
