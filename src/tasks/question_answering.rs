//! Extractive question answering: predicts the start and the end of the answer in its context.

use super::{cross_entropy, scores_cost};
use crate::data::Dataset;
use crate::data::batch::{Batch, Labels, Taught};
use crate::data::extent::Extents;
use crate::data::ragged::pad;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::tasks::taught::ragged_divergence;
use crate::tasks::{Classifier, Results, Task, answers, labels};
use serde_json::{Map, Value};
use tch::Tensor;

/// The entry of `config.json` that is true if a model was trained with unanswerable questions.
pub const VERSION_2: &str = "version_2_with_negative";

/// Start and end logits for each token; cross entropy over the tokens of a window.
#[derive(Debug)]
pub struct QuestionAnswering {
    head: Classifier,
    unanswerable: bool,
}

impl QuestionAnswering {
    /// Declares the head in the builder's block; `unanswerable`: whether the data has unanswerable questions.
    pub fn new(unanswerable: bool, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        QuestionAnswering { head: Classifier::new(2, backbone, b), unanswerable }
    }
}

impl Task for QuestionAnswering {
    fn kind(&self) -> &'static str {
        "question-answering"
    }

    /// Returns `[T, 2]`: start and end logit of each token.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, _: &Batch, ctx: &mut Ctx) -> Boundary {
        vec![self.head.of_tokens(backbone, hidden, None, ctx)]
    }

    /// Returns the mean of both cross entropies.
    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Spans(spans) = &batch.labels else { panic!("question answering needs spans") };
        let of = |end: i64| {
            let (scores, positions) = (logits[0].select(1, end), batch.score_positions.as_ref());
            let scores = pad(&scores, batch.sequences.lengths(), positions, f64::NEG_INFINITY);
            cross_entropy(&scores, &spans.select(1, end), batch)
        };
        vec![(of(0) + of(1)) / 2.0]
    }

    /// Returns the mean of both ends' divergences.
    fn taught_losses(&self, logits: &Boundary, taught: &Taught, batch: &Batch) -> Tensor {
        let of = |end: i64| {
            let [student, teacher] = [&logits[0], &taught.logits[0]].map(|logits| logits.select(1, end));
            let (lengths, positions) = (batch.sequences.lengths(), batch.score_positions.as_ref());
            ragged_divergence([&student, &teacher], lengths, positions, taught.temperature)
        };
        (of(0) + of(1)) / 2.0
    }

    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        let head = backbone.head_cost(Reads::Features, x, how).then(self.head.cost(how, x.own.tokens));
        scores_cost(head, x.own.tokens, 2)
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        2 * dataset.length(i)
    }

    fn metrics(&self, results: &Results) -> Metrics {
        answers::metrics(results, self.unanswerable)
    }

    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        answers::predictions(results, self.unanswerable, scores)
    }

    /// The key is named like the setting of Hugging Face's run_qa.py, which does not save it. `transformers` makes as
    /// many outputs as there are labels: of a model that was a classifier, these are others.
    fn config_entries(&self) -> Map<String, Value> {
        let mut entries = labels::entries(&["LABEL_0".into(), "LABEL_1".into()]);
        entries.insert(VERSION_2.to_owned(), self.unanswerable.into());
        entries
    }
}
