//! Regression: one number a text or pair, such as a similarity.

use crate::data::batch::{Batch, Labels};
use crate::data::example::Label;
use crate::metrics::{Metrics, mse, pearson, spearman};
use crate::models::{Backbone, Border};
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Task, short};
use serde_json::{Map, Value, json};
use tch::Tensor;

/// A linear head with one output on the summary, trained with the squared error.
#[derive(Debug)]
pub struct Regression {
    head: Linear,
}

impl Regression {
    /// Declares `classifier` (Hugging Face's name for this head too) in the builder's stage.
    pub fn new(backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let input = backbone.head_input();
        Regression { head: b.fresh(|b| Linear::new(b, "classifier", input.width, 1, input.std)) }
    }
}

impl Task for Regression {
    fn kind(&self) -> &'static str {
        "regression"
    }

    fn outputs(&self) -> usize {
        1
    }

    fn logits(&self, backbone: &dyn Backbone, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let summary = backbone.summary(hidden, batch, ctx);
        self.head.forward(ctx, &summary)
    }

    fn losses(&self, logits: &Tensor, labels: &Labels) -> Tensor {
        let Labels::Values(values) = labels else { panic!("regression needs numbers as labels") };
        (logits.squeeze_dim(1) - values).square()
    }

    fn metrics(&self, logits: &[f32], labels: &[Label]) -> Metrics {
        let (predicted, wanted): (Vec<f64>, Vec<f64>) = logits
            .iter()
            .zip(labels)
            .filter_map(
                |(&x, label)| if let Label::Value(y) = label { Some((f64::from(x), f64::from(*y))) } else { None },
            )
            .unzip();
        let (x, y) = (&predicted, &wanted);
        // A correlation with something constant is not defined, and then not among the metrics.
        let all = [("pearson", pearson(x, y)), ("spearmanr", spearman(x, y)), ("mse", mse(x, y))];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn prediction(&self, logits: &[f32]) -> Map<String, Value> {
        Map::from_iter([("score".into(), json!(short(logits[0])))])
    }

    fn hf_name(&self) -> &'static str {
        "SequenceClassification"
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::from_iter([
            ("id2label".into(), json!({"0": "LABEL_0"})),
            ("label2id".into(), json!({"LABEL_0": 0})),
            ("problem_type".into(), json!("regression")),
        ])
    }
}
