//! Token classification: a tag for each word, told at its first token.

use super::cross_entropy;
use crate::data::batch::{Batch, Labels};
use crate::data::example::NO_LABEL;
use crate::data::{Dataset, Label};
use crate::metrics::Metrics;
use crate::models::{Backbone, Border};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Results, Task, argmax, labels};
use serde_json::{Map, Value};
use tch::Tensor;

/// A linear classifier on the features of the words' first tokens, trained with cross entropy.
#[derive(Debug)]
pub struct TokenClassification {
    head: Linear,
    labels: Vec<String>,
}

impl TokenClassification {
    /// Declares the head in the builder's stage; `labels` in the order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let head = Linear::head(b, backbone.head_input(), labels.len() as i64);
        TokenClassification { head, labels }
    }
}

impl Task for TokenClassification {
    fn kind(&self) -> &'static str {
        "token-classification"
    }

    /// `[n, C]` for the n labelled tokens.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Border {
        let Labels::Tokens(targets) = &batch.labels else { panic!("token classification needs token labels") };
        let features = backbone.features(hidden, ctx).index_select(0, &targets.places);
        vec![self.head.forward(ctx, &features)]
    }

    fn losses(&self, logits: &Border, batch: &Batch) -> Vec<Tensor> {
        let Labels::Tokens(targets) = &batch.labels else { panic!("token classification needs token labels") };
        vec![cross_entropy(&logits[0], &targets.classes)]
    }

    fn answers(&self, logits: &Border, _: &Batch) -> Tensor {
        logits[0].view(-1)
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        let Label::Tokens(classes) = dataset.label(i) else { return 0 };
        self.labels.len() * classes.iter().filter(|&&class| class != NO_LABEL).count()
    }

    fn metrics(&self, results: &Results) -> Metrics {
        let (mut right, mut all) = (0, 0);
        for (i, answer) in results.iter().enumerate() {
            let Label::Tokens(classes) = results.dataset.label(i) else { continue };
            let wanted = classes.into_iter().filter(|&class| class != NO_LABEL);
            for (row, class) in answer.chunks_exact(self.labels.len()).zip(wanted) {
                right += usize::from(argmax(row) == class as usize);
                all += 1;
            }
        }
        vec![("accuracy", f64::from(right as u32) / f64::from(all.max(1)))]
    }

    fn predictions(&self, _: &Results, _: bool) -> Vec<Map<String, Value>> {
        Vec::new()
    }

    fn config_entries(&self) -> Map<String, Value> {
        labels::entries(&self.labels)
    }
}
