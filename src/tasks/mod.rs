//! Tasks: encoding records to examples, task heads, losses, metrics and predictions.
//!
//! Tasks and model families are independent of each other. A [`Task`] returns the loss of each target; the training
//! step divides the sum by the count over all ranks, so the loss of a global batch does not depend on how it is split.

pub mod answers;
pub mod causal_texts;
pub mod chat;
pub mod choices;
pub mod concatenated;
pub mod corpus;
pub mod embedding;
pub mod embedding_texts;
pub mod example_table;
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
pub mod sentence_transformers;
pub mod sequence_classification;
pub mod tagged_words;
pub mod texts;
pub mod token_classification;

mod classes;
mod classifier;
#[cfg(test)]
mod fixtures;
mod record_filter;
mod taught;

pub use classifier::Classifier;
pub use example_table::{ExampleRow, ExampleTable};
pub use head::Head;
pub use model::Model;
pub use results::Results;

use crate::data::Dataset;
use crate::data::batch::{Batch, Targets, Taught};
use crate::data::extent::Extents;
use crate::error::Result;
use crate::metrics::{ClassReport, Metrics};
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx};
use crate::ops::cross_entropy::{Losses, Projection};
use crate::text::Tokenizer;
use serde_json::{Map, Value};
use tch::Tensor;

/// Converts an f32 to the f64 with the same shortest decimal representation, for JSON.
pub fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

/// A training task and its head.
pub trait Task: Send + Sync {
    /// Returns the value of `task.kind`.
    fn kind(&self) -> &'static str;

    /// Computes the logits from the last block's activations, in the compute dtype.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary;

    /// Returns the cost of the head block and the loss. Default: a head on the pooled output, whose few numbers per
    /// sequence are not counted.
    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        backbone.head_cost(Reads::Summary, x, how)
    }

    /// Number of loss terms.
    fn terms(&self) -> usize {
        1
    }

    /// Returns the loss terms from f32 logits: for each term the loss of every target, f32 `[n]`, n as in
    /// [`Batch::counts`]. The loss is the sum of the terms' means, equal to the loss that `transformers` reports.
    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor>;

    /// Returns the loss terms from the last block's activations without computing all logits, if the task can; the same
    /// as [`Task::losses`] up to rounding.
    fn fused_losses(&self, _: &dyn Backbone, _: &Boundary, _: &Batch, _: &mut Ctx) -> Option<Vec<Losses>> {
        None
    }

    /// Returns the loss of each target of the only term against the answers of a teacher, f32 `[n]`, from f32 logits: for
    /// classes T^2 times the divergence from the teacher at temperature T (arXiv 1503.02531).
    ///
    /// # Panics
    /// For a task with logits over a vocabulary, which has no teacher.
    fn taught_losses(&self, _: &Boundary, _: &Taught, _: &Batch) -> Tensor {
        unreachable!("{} has no teacher", self.kind())
    }

    /// Returns the factor of similarities in a loss that compares each example with all others of the global batch, if
    /// the task has one. [`Task::losses`] then takes it from [`Batch::contrast`].
    fn contrast(&self) -> Option<f64> {
        None
    }

    /// Returns the loss of an evaluation, for a task whose examples have none without the others.
    fn loss(&self, _: &Results) -> Option<f64> {
        None
    }

    /// Whether [`Task::answers`] needs the logits.
    fn reads_logits(&self) -> bool {
        true
    }

    /// Returns the values that evaluation and prediction keep from the f32 logits: f32, flat, example by example,
    /// [`Task::answer_size`] values each. Default: the logits.
    fn answers(&self, logits: &Boundary, _: &Batch) -> Tensor {
        logits[0].view(-1)
    }

    /// Number of values that [`Task::answers`] returns for example `i`; the same on every rank.
    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize;

    /// Returns the metrics other than the loss.
    fn metrics(&self, results: &Results) -> Metrics;

    /// Returns the metrics of each class, for a task with classes.
    fn report(&self, _: &Results) -> Option<ClassReport> {
        None
    }

    /// Returns the worst predictions, at most `most`; `None` for a task whose answers are not comparable with labels.
    /// Texts of the data are returned only with the tokenizer that decodes them.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    fn worst(&self, _: &Results, _texts: Option<&Tokenizer>, _most: usize) -> Result<Option<ExampleTable>> {
        Ok(None)
    }

    /// Returns the positive label of a binary task: the second label, as in scikit-learn.
    fn positive_label(&self) -> Option<&str> {
        None
    }

    /// Returns a warning about suspicious results, with a remedy.
    fn warning(&self, _: &Results) -> Option<String> {
        None
    }

    /// Returns the output of `predict`, one line per record; with `scores` also the logits.
    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>>;

    /// Returns the task's entries of `config.json` (labels, problem type).
    fn config_entries(&self) -> Map<String, Value>;

    /// Returns further files of the model's folder: their names and contents. `max_length` is that of training, in tokens.
    fn folder_files(&self, _max_length: usize) -> Vec<(&'static str, Value)> {
        Vec::new()
    }
}

/// Returns the index of the largest value, the first one of equal values.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let max = row.get(argmax(row)).copied().unwrap_or_default();
    let exps: Vec<f64> = row.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|x| x / sum).collect()
}

fn logits_json(row: &[f32]) -> Value {
    row.iter().copied().map(short).collect()
}

/// Returns the cost of a head with `[rows, classes]` scores and their cross entropy: the scores, their log softmax and
/// the gradients of both, in fp32.
fn scores_cost(head: Cost, rows: f64, classes: usize) -> Cost {
    let scores = 4.0 * rows * classes as f64;
    Cost::keep(scores).then(head).then(Cost::op(scores, scores, scores, [0.0; 2]))
}

/// Returns the projection of the targets' hidden states to the vocabulary, `[n, vocab_size]` for n targets.
fn target_scores(backbone: &dyn Backbone, hidden: &Boundary, targets: &Targets, ctx: &mut Ctx) -> Projection {
    backbone.vocabulary(&hidden[0].index_select(0, &targets.positions), ctx)
}

/// Multiplies the loss of each example, f32 `[B]`, by the example's weight, if the batch has weights.
fn weighted(losses: Tensor, batch: &Batch) -> Tensor {
    batch.example_weights.as_ref().map_or_else(|| losses.shallow_clone(), |weights| &losses * weights)
}

/// Computes the cross entropy of each row, f32 `[n]`, from logits `[n, C]` and classes i64 `[n]`, with the class weights
/// and the label smoothing of the batch. With weights w and smoothing e, row i is
/// `(1 - e) w[y_i] l[i, y_i] + e / C sum_c w[c] l[i, c]`, where l is the negative log softmax.
fn cross_entropy(logits: &Tensor, classes: &Tensor, batch: &Batch) -> Tensor {
    let weights = batch.class_weights.as_ref();
    logits.cross_entropy_loss(classes, weights, tch::Reduction::None, -100, batch.label_smoothing)
}
