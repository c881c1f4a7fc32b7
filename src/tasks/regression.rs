//! Regression: one number per text or pair, such as a similarity score.

use crate::data::batch::{Batch, Labels, Taught};
use crate::data::{Dataset, Label};
use crate::metrics::{Metrics, mse, pearson, spearman};
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Classifier, Results, Task, labels, short, weighted};
use serde_json::{Map, Value, json};
use tch::Tensor;

/// A linear head with one output on the pooled output, trained with the squared error.
#[derive(Debug)]
pub struct Regression {
    head: Classifier,
}

impl Regression {
    /// Declares `classifier` (also Hugging Face's name for this head) in the builder's block.
    pub fn new(backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        Regression { head: Classifier::new(1, backbone, b) }
    }
}

impl Task for Regression {
    fn kind(&self) -> &'static str {
        "regression"
    }

    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        vec![self.head.of_sequences(backbone, hidden, batch, ctx)]
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Values(values) = &batch.labels else { panic!("regression needs numbers as labels") };
        vec![weighted((logits[0].squeeze_dim(1) - values).square(), batch)]
    }

    /// Returns the squared error. It has no temperature.
    fn taught_losses(&self, logits: &Boundary, taught: &Taught, _: &Batch) -> Tensor {
        (&logits[0] - &taught.logits[0]).squeeze_dim(1).square()
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        1
    }

    fn metrics(&self, results: &Results) -> Metrics {
        let (predicted, labelled): (Vec<f64>, Vec<f64>) = results
            .iter()
            .enumerate()
            .filter_map(|(i, answer)| match results.dataset.label(i) {
                Label::Value(y) => Some((f64::from(answer[0]), f64::from(y))),
                _ => None,
            })
            .unzip();
        let (x, y) = (&predicted, &labelled);
        // The correlation with a constant is undefined and is omitted.
        let all = [("pearson", pearson(x, y)), ("spearmanr", spearman(x, y)), ("mse", mse(x, y))];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let line = |answer: &[f32]| {
            let score = json!(short(answer[0]));
            let logits = scores.then(|| ("logits".to_owned(), json!([score])));
            Map::from_iter([("score".to_owned(), score)].into_iter().chain(logits))
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        let mut entries = labels::entries(&["LABEL_0".into()]);
        entries.insert("problem_type".into(), json!("regression"));
        entries
    }
}
