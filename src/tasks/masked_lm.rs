//! Masked language modeling (arXiv 1810.04805, section 3.1), with or without next-sentence prediction.

use super::{cross_entropy, target_scores};
use crate::data::batch::{Batch, Labels, Targets};
use crate::data::dataset::LabelKind;
use crate::data::extent::Extents;
use crate::data::{Dataset, RandomKey};
use crate::ffi::transfer;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::ops::cross_entropy::Losses;
use crate::tasks::{Classifier, Results, Task, short};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

/// Number of predicted tokens per mask.
const BEST: i64 = 5;
/// Number of values per predicted token: id, probability and logit.
const NUMBERS: usize = 3;
/// Number of values per mask.
const BLANK: usize = BEST as usize * NUMBERS;

/// Predicts masked tokens and, for pairs, whether the second text follows the first (class 0) or not (class 1).
#[derive(Debug)]
pub struct MaskedLm {
    next_sentence: Option<Classifier>,
}

impl MaskedLm {
    /// Creates the head for masked tokens only.
    pub fn alone() -> Self {
        MaskedLm { next_sentence: None }
    }

    /// Creates the head and declares the next-sentence classifier on the pooled output.
    pub fn with_next_sentence(backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        MaskedLm { next_sentence: Some(Classifier::new(2, backbone, b)) }
    }

    fn targets<'a>(&self, batch: &'a Batch) -> (&'a Targets, Option<&'a Tensor>) {
        match &batch.labels {
            Labels::Tokens(targets) | Labels::Blanks(targets) => (targets, None),
            Labels::TokensAndClasses(targets, classes) => (targets, Some(classes)),
            _ => panic!("a masked language model needs token labels"),
        }
    }
}

impl Task for MaskedLm {
    fn kind(&self) -> &'static str {
        "masked-lm"
    }

    /// Returns `[n, vocab_size]` for the n masked tokens, and `[B, 2]` for next-sentence prediction.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        let words = target_scores(backbone, hidden, self.targets(batch).0, ctx).logits();
        let sentences = self.next_sentence.as_ref().map(|head| head.of_sequences(backbone, hidden, batch, ctx));
        [words].into_iter().chain(sentences).collect()
    }

    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        // Evaluation reads all logits, and their log softmax.
        let logits = x.targets * backbone.vocab_size() as f64;
        backbone.head_cost(Reads::Vocabulary, x, how).alone_at_least((how.element() + 8.0) * logits)
    }

    /// Without a tensor of all logits of the vocabulary.
    fn fused_losses(
        &self,
        backbone: &dyn Backbone,
        hidden: &Boundary,
        batch: &Batch,
        ctx: &mut Ctx,
    ) -> Option<Vec<Losses>> {
        let (targets, classes) = self.targets(batch);
        let words =
            target_scores(backbone, hidden, targets, ctx).cross_entropy(&targets.classes, batch.label_smoothing);
        let sentences = self.next_sentence.as_ref().zip(classes).map(|(head, classes)| {
            let scores = head.of_sequences(backbone, hidden, batch, ctx).to_kind(Kind::Float);
            cross_entropy(&scores, classes, batch).into()
        });
        Some([words].into_iter().chain(sentences).collect())
    }

    fn terms(&self) -> usize {
        1 + usize::from(self.next_sentence.is_some())
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let (targets, classes) = self.targets(batch);
        let sentences = logits.get(1).zip(classes).map(|(logits, classes)| cross_entropy(logits, classes, batch));
        [cross_entropy(&logits[0], &targets.classes, batch)].into_iter().chain(sentences).collect()
    }

    /// Returns for each example the number of correctly predicted tokens, the number of masked tokens, and whether the
    /// next-sentence prediction is correct. For fill-mask: id, probability and logit of the five best tokens per mask.
    fn answers(&self, logits: &Boundary, batch: &Batch) -> Tensor {
        if matches!(batch.labels, Labels::Blanks(_)) {
            let (best, ids) = logits[0].topk(BEST, 1, true, true);
            let probabilities = logits[0].softmax(1, Kind::Float).gather(1, &ids, false);
            return Tensor::stack(&[ids.to_kind(Kind::Float), probabilities, best], 2).view(-1);
        }
        let (targets, classes) = self.targets(batch);
        let (n, device) = (batch.len() as i64, logits[0].device());
        let owners: Vec<i64> = targets.owners.iter().map(|&owner| owner as i64).collect();
        let owners = transfer::to_device(Tensor::from_slice(&owners), device);
        let zeros = || Tensor::zeros([n], (Kind::Float, device));
        let right = logits[0].argmax(1, false).eq_tensor(&targets.classes).to_kind(Kind::Float);
        let hits = zeros().index_add(0, &owners, &right);
        let all = zeros().index_add(0, &owners, &right.ones_like());
        let sentences = match (logits.get(1), classes) {
            (Some(logits), Some(classes)) => Some(logits.argmax(1, false).eq_tensor(classes).to_kind(Kind::Float)),
            _ => None,
        };
        Tensor::stack(&[hits, all].into_iter().chain(sentences).collect::<Vec<_>>(), 1).view(-1)
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        if dataset.label_kind() == LabelKind::None {
            return BLANK * dataset.inputs(i, RandomKey::default()).targets.len();
        }
        2 + usize::from(self.next_sentence.is_some())
    }

    fn metrics(&self, results: &Results) -> Metrics {
        let sum = |k: usize| results.iter().filter_map(|answer| answer.get(k)).map(|&x| f64::from(x)).sum::<f64>();
        let mut metrics = vec![("perplexity", results.losses.first().copied().unwrap_or_default().exp())];
        if sum(1) > 0.0 {
            metrics.push(("masked_accuracy", sum(0) / sum(1)));
        }
        if self.next_sentence.is_some() {
            metrics.push(("sentence_accuracy", sum(2) / results.dataset.len() as f64));
        }
        metrics
    }

    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let token = |best: &[f32]| {
            // An f32 holds token ids exactly: vocabularies have less than 2^24 tokens.
            let mut line = json!({"token": results.references[best[0] as usize], "score": short(best[1])});
            if scores {
                line["logit"] = json!(short(best[2]));
            }
            line
        };
        let line = |answer: &[f32]| {
            let blanks = answer.chunks_exact(BLANK).map(|blank| blank.chunks_exact(NUMBERS).map(token).collect());
            Map::from_iter([("masks".to_owned(), blanks.collect::<Vec<Value>>().into())])
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::new()
    }
}
