//! Sequence classification: one label of many.

use crate::data::batch::{Batch, Labels};
use crate::data::example::Label;
use crate::metrics::{Confusion, Metrics};
use crate::models::{Backbone, Border};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::Task;
use serde_json::{Map, Value, json};
use tch::{Reduction, Tensor};

/// A linear classifier on the summary, trained with cross entropy.
#[derive(Debug)]
pub struct SequenceClassification {
    head: Linear,
    labels: Vec<String>,
}

impl SequenceClassification {
    /// Declares `classifier` in the builder's stage; `labels` in the order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let input = backbone.head_input();
        let head = b.fresh(|b| Linear::new(b, "classifier", input.width, labels.len() as i64, input.std));
        SequenceClassification { head, labels }
    }
}

impl Task for SequenceClassification {
    fn kind(&self) -> &'static str {
        "sequence-classification"
    }

    fn outputs(&self) -> usize {
        self.labels.len()
    }

    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let summary = backbone.summary(hidden, batch, ctx);
        self.head.forward(ctx, &summary)
    }

    fn losses(&self, logits: &Tensor, labels: &Labels) -> Tensor {
        let Labels::Classes(labels) = labels else { panic!("classification needs class labels") };
        logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::None, -100, 0.0)
    }

    fn metrics(&self, logits: &[f32], labels: &[Label]) -> Metrics {
        let mut confusion = Confusion::new(self.labels.len());
        for (row, label) in logits.chunks_exact(self.labels.len()).zip(labels) {
            if let Label::Class(label) = label {
                confusion.add(*label as usize, argmax(row));
            }
        }
        vec![
            ("accuracy", confusion.accuracy()),
            ("f1", confusion.macro_f1()),
            ("matthews_correlation", confusion.matthews()),
        ]
    }

    fn prediction(&self, logits: &[f32]) -> Map<String, Value> {
        let best = argmax(logits);
        // softmax at the maximum: 1 / sum of exp(x - max)
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(logits[best])).exp()).sum();
        let mut line = Map::new();
        line.insert("label".into(), json!(self.labels[best]));
        line.insert("score".into(), json!(1.0 / sum));
        line
    }

    fn hf_name(&self) -> &'static str {
        "SequenceClassification"
    }

    fn config_entries(&self) -> Map<String, Value> {
        let id2label = self.labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect();
        let label2id = self.labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect();
        Map::from_iter([
            ("id2label".into(), Value::Object(id2label)),
            ("label2id".into(), Value::Object(label2id)),
            ("problem_type".into(), json!("single_label_classification")),
        ])
    }
}

/// The index of the largest value, the first of equals.
fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}
