//! Tasks: a head on a backbone's summary, its loss, its metrics and what a prediction looks like.
//!
//! A head is task x summary, so a task knows no family and a family knows no task. A [`Task`] returns a loss for each
//! example; the training step divides their sum by the count over all ranks, so that the loss of a global batch does
//! not depend on how it was split.

pub mod labels;
pub mod model;
pub mod regression;
pub mod sequence_classification;

pub use model::Model;

use crate::data::batch::{Batch, Labels};
use crate::data::example::Label;
use crate::metrics::Metrics;
use crate::models::{Backbone, Border};
use crate::nn::Ctx;
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

    /// How many numbers the head gives for an example, C.
    fn outputs(&self) -> usize;

    /// The head: `[B, C]`, of the type that the model computes in.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor;

    /// The loss of each example, f32 `[B]`, from f32 logits `[B, C]`. Their mean over a batch is the loss that `transformers` reports.
    fn losses(&self, logits: &Tensor, labels: &Labels) -> Tensor;

    /// The task's metrics from all logits `[N * C]`, row by row, and the N labels.
    fn metrics(&self, logits: &[f32], labels: &[Label]) -> Metrics;

    /// The line that `predict` writes for one example's logits `[C]`.
    fn prediction(&self, logits: &[f32]) -> Map<String, Value>;

    /// The task's part in a Hugging Face architecture's name: `SequenceClassification`.
    fn hf_name(&self) -> &'static str;

    /// What the task writes into `config.json` (labels, problem type).
    fn config_entries(&self) -> Map<String, Value>;
}
