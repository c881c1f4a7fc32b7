//! Single-label sequence classification.

use crate::data::batch::{Batch, Labels, Taught};
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::metrics::{ClassReport, Confusion, Metrics, Ranking};
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::taught::divergence;
use crate::tasks::{
    Classifier, ExampleTable, Results, Task, argmax, cross_entropy, labels, logits_json, softmax, weighted,
};
use crate::text::Tokenizer;
use serde_json::{Map, Value, json};
use tch::Tensor;

/// A linear classifier on the pooled output, trained with cross entropy.
#[derive(Debug)]
pub struct SequenceClassification {
    head: Classifier,
    labels: Vec<String>,
}

impl SequenceClassification {
    /// Declares `classifier` in the builder's block; `labels` in order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let head = Classifier::new(labels.len(), backbone, b);
        SequenceClassification { head, labels }
    }

    fn confusion(&self, results: &Results) -> Confusion {
        let mut confusion = Confusion::new(self.labels.len());
        for (i, row) in results.iter().enumerate() {
            if let Label::Class(label) = results.dataset.label(i) {
                confusion.add(label as usize, argmax(row));
            }
        }
        confusion
    }

    /// Ranks examples by the score of the positive label. The difference of the logits gives the same order as the
    /// probability, but without ties from rounding.
    fn ranking(results: &Results) -> Option<Ranking> {
        let example = |(i, row): (usize, &[f32])| match results.dataset.label(i) {
            Label::Class(label) => Some((f64::from(row[1]) - f64::from(row[0]), label == 1)),
            _ => None,
        };
        Ranking::new(results.iter().enumerate().filter_map(example))
    }
}

impl Task for SequenceClassification {
    fn kind(&self) -> &'static str {
        "sequence-classification"
    }

    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        vec![self.head.of_sequences(backbone, hidden, batch, ctx)]
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Classes(labels) = &batch.labels else { panic!("classification needs class labels") };
        vec![weighted(cross_entropy(&logits[0], labels, batch), batch)]
    }

    fn taught_losses(&self, logits: &Boundary, taught: &Taught, _: &Batch) -> Tensor {
        divergence([&logits[0], &taught.logits[0]], taught.temperature)
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        self.labels.len()
    }

    fn metrics(&self, results: &Results) -> Metrics {
        let confusion = self.confusion(results);
        let mut metrics = vec![
            ("accuracy", confusion.accuracy()),
            ("f1", confusion.macro_f1()),
            ("micro_f1", confusion.micro_f1()),
            ("matthews_correlation", confusion.matthews()),
        ];
        if self.positive_label().is_some() {
            let ranking = Self::ranking(results);
            let of_ranking = |f: fn(&Ranking) -> Option<f64>| ranking.as_ref().and_then(f);
            metrics.push(("binary_f1", confusion.f1_of(1)));
            // Undefined if all examples have the same label, and then omitted.
            metrics.extend(of_ranking(Ranking::roc_auc).map(|value| ("roc_auc", value)));
            metrics.extend(of_ranking(Ranking::average_precision).map(|value| ("average_precision", value)));
        }
        metrics
    }

    fn report(&self, results: &Results) -> Option<ClassReport> {
        Some(ClassReport::of_confusion("examples", self.labels.clone(), self.confusion(results)))
    }

    fn worst(&self, results: &Results, _: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        Ok(Some(ExampleTable::wrong_classes(results, |class| self.labels[class].clone(), most)))
    }

    fn positive_label(&self) -> Option<&str> {
        if let [_, positive] = self.labels.as_slice() { Some(positive) } else { None }
    }

    fn warning(&self, results: &Results) -> Option<String> {
        let confusion = self.confusion(results);
        let label = &self.labels[confusion.only_prediction()?];
        Some(format!(
            "all {} predictions are {label:?}, although the examples also have other labels: the model does not \
             distinguish them (yet). Train longer, try another learning rate, or balance the labels of the training data",
            confusion.total()
        ))
    }

    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let line = |logits: &[f32]| {
            let best = argmax(logits);
            let mut line = Map::new();
            line.insert("label".into(), json!(self.labels[best]));
            line.insert("score".into(), json!(softmax(logits)[best]));
            if scores {
                line.insert("logits".into(), logits_json(logits));
            }
            line
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        let mut entries = labels::entries(&self.labels);
        entries.insert("problem_type".into(), json!("single_label_classification"));
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};
    use crate::tasks::fixtures;

    /// Returns metrics and warning of a classifier for examples (label, logits).
    fn evaluated<const N: usize>(labels: [&str; N], examples: &[(u32, [f32; N])]) -> (Metrics, Option<String>) {
        with_results(labels, examples, |task, results| (task.metrics(results), task.warning(results)))
    }

    /// Calls `look` with a classifier and its results for examples (label, logits).
    fn with_results<const N: usize, T>(
        labels: [&str; N],
        examples: &[(u32, [f32; N])],
        look: impl FnOnce(&SequenceClassification, &Results) -> T,
    ) -> T {
        let task = SequenceClassification { head: fixtures::head(N), labels: labels.map(str::to_owned).to_vec() };
        let example = |(label, _): &(u32, [f32; N])| Example::single(vec![0], vec![0], Label::Class(*label));
        let dataset = Dataset::new(examples.iter().map(example), Collation::Plain, [0; 32]);
        let answers: Vec<f32> = examples.iter().flat_map(|(_, logits)| *logits).collect();
        let offsets: Vec<usize> = (0..=examples.len()).map(|i| i * N).collect();
        let references = Value::Null;
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        look(&task, &results)
    }

    fn value(metrics: &Metrics, name: &str) -> Option<f64> {
        metrics.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    }

    #[test]
    fn the_second_of_two_labels_is_positive() {
        // Scores of "yes": 1, -1, -1, 2; all correct except the second example.
        let examples = [(1, [0.0, 1.0]), (1, [1.0, 0.0]), (0, [0.5, -0.5]), (1, [-1.0, 1.0])];
        let (metrics, warning) = evaluated(["no", "yes"], &examples);
        assert_eq!(value(&metrics, "binary_f1"), Some(0.8));
        assert_eq!(value(&metrics, "roc_auc"), Some(2.5 / 3.0));
        assert_eq!(value(&metrics, "average_precision"), Some((1.0 + 1.0 + 0.75) / 3.0));
        assert_eq!(warning, None);
        // Different logits with equal rounded probabilities.
        let (metrics, _) = evaluated(["no", "yes"], &[(1, [0.0, 90.0]), (0, [0.0, 80.0])]);
        assert_eq!(value(&metrics, "roc_auc"), Some(1.0));
    }

    #[test]
    fn undefined_metrics_are_omitted() {
        let (metrics, _) = evaluated(["no", "yes"], &[(0, [0.0, 1.0]), (0, [1.0, 0.0])]);
        assert_eq!(value(&metrics, "binary_f1"), Some(0.0));
        assert!(value(&metrics, "roc_auc").or(value(&metrics, "average_precision")).is_none(), "{metrics:?}");
        let (metrics, _) = evaluated(["a", "b", "c"], &[(0, [0.0, 1.0, 0.0]), (2, [1.0, 0.0, 0.0])]);
        assert_eq!(metrics.len(), 4, "{metrics:?}");
    }

    #[test]
    fn the_worst_mistakes_come_first() {
        let examples = [(0, [1.0, 0.0]), (0, [0.0, 1.0]), (1, [3.0, 0.0]), (1, [1.0, 0.0])];
        let worst = with_results(["no", "yes"], &examples, |task, results| task.worst(results, None, 2));
        let ExampleTable { rows, columns, .. } = worst.unwrap().unwrap();
        assert_eq!(rows.iter().map(|row| row.example).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((rows[0].label.as_str(), rows[0].predicted.as_str()), ("yes", "no"));
        // softmax([3, 0]) and -log of its second value.
        let expected = [0.952_574_126_8, 3.048_587_351_6];
        assert!(rows[0].numbers.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{rows:?}");
        assert_eq!(columns, ["score", "loss"]);
    }

    #[test]
    fn a_single_predicted_class_is_a_warning() {
        let (_, warning) = evaluated(["no", "yes"], &[(0, [0.0, 1.0]), (1, [0.0, 1.0])]);
        let warning = warning.expect("a warning");
        assert!(warning.starts_with("all 2 predictions are \"yes\", "), "{warning}");
        assert_eq!(evaluated(["no", "yes"], &[(1, [0.0, 1.0]), (1, [0.0, 1.0])]).1, None);
    }
}
