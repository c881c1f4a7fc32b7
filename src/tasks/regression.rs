//! Regression: one number per text or pair, such as a similarity score.

use crate::data::batch::{Batch, Labels, Taught};
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::metrics::{Metrics, mse, pearson, spearman};
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Classifier, ExampleRow, ExampleTable, Results, Task, labels, short, weighted};
use crate::text::Tokenizer;
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

    fn worst(&self, results: &Results, _: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        let row = |(example, answer): (usize, &[f32])| {
            let Label::Value(label) = results.dataset.label(example) else { return None };
            let numbers = vec![(f64::from(answer[0]) - f64::from(label)).abs()];
            let [label, predicted] = [label, answer[0]].map(|number| format!("{number:.4}"));
            Some(ExampleRow { example, label, predicted, numbers, ..ExampleRow::default() })
        };
        let rows = results.iter().enumerate().filter_map(row).collect();
        Ok(Some(ExampleTable::worst(&["absolute error"], rows, |row| row.numbers[0], most)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};
    use crate::tasks::fixtures;

    #[test]
    fn the_largest_errors_come_first() {
        let task = Regression { head: fixtures::head(1) };
        let example = |label: f32| Example::single(vec![0], vec![0], Label::Value(label));
        let dataset = Dataset::new([1.0, 2.0, 3.0].map(example), Collation::Plain, [0; 32]);
        let (answers, offsets, references) = ([1.5, 2.0, -3.25], [0, 1, 2, 3], Value::Null);
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        let rows = task.worst(&results, None, 2).unwrap().unwrap().rows;
        let found: Vec<_> =
            rows.iter().map(|row| (row.example, &*row.label, &*row.predicted, row.numbers[0])).collect();
        assert_eq!(found, [(2, "3.0000", "-3.2500", 6.25), (0, "1.0000", "1.5000", 0.5)]);
    }
}
