//! Multi-label classification: any of the labels.

use crate::data::Dataset;
use crate::data::batch::{Batch, Labels};
use crate::metrics::Metrics;
use crate::models::{Backbone, Border};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Results, Task, labels};
use serde_json::{Map, Value, json};
use tch::{Reduction, Tensor};

/// A linear layer on the summary, each of its outputs a binary classifier (binary cross entropy with logits).
#[derive(Debug)]
pub struct MultiLabel {
    head: Linear,
    labels: Vec<String>,
}

impl MultiLabel {
    /// Declares the head in the builder's stage; `labels` in the order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let head = Linear::head(b, backbone.head_input(), labels.len() as i64);
        MultiLabel { head, labels }
    }
}

impl Task for MultiLabel {
    fn kind(&self) -> &'static str {
        "multi-label"
    }

    /// `[B, C]`.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Border {
        let summary = backbone.summary(hidden, batch, ctx);
        vec![self.head.forward(ctx, &summary)]
    }

    /// Of each example the mean over the labels.
    fn losses(&self, logits: &Border, batch: &Batch) -> Vec<Tensor> {
        let Labels::Flags(flags) = &batch.labels else { panic!("multi-label classification needs flags") };
        let each = logits[0].binary_cross_entropy_with_logits::<Tensor>(flags, None, None, Reduction::None);
        vec![each.mean_dim(1, false, tch::Kind::Float)]
    }

    fn answers(&self, logits: &Border, _: &Batch) -> Tensor {
        logits[0].view(-1)
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        self.labels.len()
    }

    fn metrics(&self, _: &Results) -> Metrics {
        Vec::new()
    }

    fn predictions(&self, _: &Results, _: bool) -> Vec<Map<String, Value>> {
        Vec::new()
    }

    fn config_entries(&self) -> Map<String, Value> {
        let mut entries = labels::entries(&self.labels);
        entries.insert("problem_type".into(), json!("multi_label_classification"));
        entries
    }
}
