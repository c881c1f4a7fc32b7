//! Next-token prediction: causal and sequence-to-sequence language modeling.

use super::{cross_entropy, scores_cost};
use crate::data::Dataset;
use crate::data::batch::{Batch, Labels};
use crate::data::extent::Extents;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx};
use crate::tasks::{Results, Task};
use serde_json::{Map, Value};
use tch::Tensor;

/// Cross entropy over the vocabulary at every position with a target.
#[derive(Debug)]
pub struct NextToken {
    pub kind: &'static str,
}

impl Task for NextToken {
    fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns `[n, vocab_size]` for the n targets.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        let Labels::Tokens(targets) = &batch.labels else { panic!("a language model needs token labels") };
        let rows = hidden[0].index_select(0, &targets.positions);
        vec![backbone.vocabulary(&rows, ctx)]
    }

    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        scores_cost(backbone.head_cost(Reads::Vocabulary, x, how), x.targets, backbone.vocab_size())
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Tokens(targets) = &batch.labels else { panic!("a language model needs token labels") };
        vec![cross_entropy(&logits[0], &targets.classes)]
    }

    fn answers(&self, logits: &Boundary, _: &Batch) -> Tensor {
        logits[0].new_zeros([0], (tch::Kind::Float, logits[0].device()))
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        0
    }

    fn metrics(&self, results: &Results) -> Metrics {
        results.losses.first().map(|loss| ("perplexity", loss.exp())).into_iter().collect()
    }

    fn predictions(&self, _: &Results, _: bool) -> Vec<Map<String, Value>> {
        Vec::new()
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::new()
    }
}
