//! Sequence classification: one label of many.

use crate::data::batch::{Batch, Labels};
use crate::data::{Dataset, Label};
use crate::metrics::{Confusion, Metrics};
use crate::models::{Backbone, Border};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Classifier, Results, Task, argmax, cross_entropy, labels, logits_json, softmax};
use serde_json::{Map, Value, json};
use tch::Tensor;

/// A linear classifier on the summary, trained with cross entropy.
#[derive(Debug)]
pub struct SequenceClassification {
    head: Classifier,
    labels: Vec<String>,
}

impl SequenceClassification {
    /// Declares `classifier` in the builder's stage; `labels` in the order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let head = Classifier::new(labels.len(), backbone, b);
        SequenceClassification { head, labels }
    }
}

impl Task for SequenceClassification {
    fn kind(&self) -> &'static str {
        "sequence-classification"
    }

    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Border {
        vec![self.head.of_sequences(backbone, hidden, batch, ctx)]
    }

    fn losses(&self, logits: &Border, batch: &Batch) -> Vec<Tensor> {
        let Labels::Classes(labels) = &batch.labels else { panic!("classification needs class labels") };
        vec![cross_entropy(&logits[0], labels)]
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        self.labels.len()
    }

    fn metrics(&self, results: &Results) -> Metrics {
        let mut confusion = Confusion::new(self.labels.len());
        for (i, row) in results.iter().enumerate() {
            if let Label::Class(label) = results.dataset.label(i) {
                confusion.add(label as usize, argmax(row));
            }
        }
        vec![
            ("accuracy", confusion.accuracy()),
            ("f1", confusion.macro_f1()),
            ("micro_f1", confusion.micro_f1()),
            ("matthews_correlation", confusion.matthews()),
        ]
    }

    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let line = |logits: &[f32]| {
            let best = argmax(logits);
            let mut line = Map::new();
            line.insert("label".into(), json!(self.labels[best]));
            line.insert("score".into(), json!(softmax(logits)[best]));
            if scores {
                line.insert("logits".into(), logits_json(logits));
            }
            line
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        let mut entries = labels::entries(&self.labels);
        entries.insert("problem_type".into(), json!("single_label_classification"));
        entries
    }
}
