//! Next-token prediction: causal and sequence-to-sequence language modeling.

use super::{cross_entropy, target_scores};
use crate::data::Dataset;
use crate::data::batch::{Batch, Labels, Targets};
use crate::data::extent::Extents;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx};
use crate::ops::cross_entropy::Losses;
use crate::tasks::{Results, Task};
use serde_json::{Map, Value};
use tch::Tensor;

/// Cross entropy over the vocabulary at every position with a target.
#[derive(Debug)]
pub struct NextToken {
    pub kind: &'static str,
}

fn targets(batch: &Batch) -> &Targets {
    match &batch.labels {
        Labels::Tokens(targets) => targets,
        _ => panic!("a language model needs token labels"),
    }
}

impl Task for NextToken {
    fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns `[n, vocab_size]` for the n targets.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        vec![target_scores(backbone, hidden, targets(batch), ctx).logits()]
    }

    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        backbone.head_cost(Reads::Vocabulary, x, how)
    }

    /// Without a tensor of all logits.
    fn fused_losses(
        &self,
        backbone: &dyn Backbone,
        hidden: &Boundary,
        batch: &Batch,
        ctx: &mut Ctx,
    ) -> Option<Vec<Losses>> {
        let targets = targets(batch);
        Some(vec![target_scores(backbone, hidden, targets, ctx).cross_entropy(&targets.classes, batch.label_smoothing)])
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        vec![cross_entropy(&logits[0], &targets(batch).classes, batch)]
    }

    fn reads_logits(&self) -> bool {
        false
    }

    fn answers(&self, _: &Boundary, batch: &Batch) -> Tensor {
        Tensor::zeros([0], (tch::Kind::Float, batch.tokens.device()))
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
