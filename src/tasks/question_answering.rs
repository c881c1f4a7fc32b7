//! Extractive question answering: where in its context the answer begins and ends.

use super::cross_entropy;
use crate::data::Dataset;
use crate::data::batch::{Batch, Labels};
use crate::data::ragged::pad;
use crate::metrics::Metrics;
use crate::models::{Backbone, Border};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Results, Task};
use serde_json::{Map, Value};
use tch::Tensor;

/// A score for each token to be the first of the answer, and one to be the last; cross entropy over the tokens of a window.
#[derive(Debug)]
pub struct QuestionAnswering {
    head: Linear,
}

impl QuestionAnswering {
    /// Declares the head in the builder's stage.
    pub fn new(backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        QuestionAnswering { head: Linear::head(b, backbone.head_input(), 2) }
    }
}

impl Task for QuestionAnswering {
    fn kind(&self) -> &'static str {
        "question-answering"
    }

    /// `[T, 2]`: of each token the score to be the first and to be the last.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, _: &Batch, ctx: &mut Ctx) -> Border {
        let features = backbone.features(hidden, ctx);
        vec![self.head.forward(ctx, &features)]
    }

    /// The mean of both cross entropies.
    fn losses(&self, logits: &Border, batch: &Batch) -> Vec<Tensor> {
        let Labels::Spans(spans) = &batch.labels else { panic!("question answering needs spans") };
        let of = |end: i64| {
            let scores = pad(&logits[0].select(1, end), batch.sequences.lengths(), f64::NEG_INFINITY);
            cross_entropy(&scores, &spans.select(1, end))
        };
        vec![(of(0) + of(1)) / 2.0]
    }

    fn answers(&self, logits: &Border, _: &Batch) -> Tensor {
        logits[0].view(-1)
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        2 * dataset.length(i)
    }

    fn metrics(&self, _: &Results) -> Metrics {
        Vec::new()
    }

    fn predictions(&self, _: &Results, _: bool) -> Vec<Map<String, Value>> {
        Vec::new()
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::new()
    }
}
