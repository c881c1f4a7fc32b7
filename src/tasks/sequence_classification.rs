//! Sequence classification: one label of many.

use crate::data::batch::{Batch, Labels};
use crate::data::{Dataset, Label};
use crate::metrics::{Confusion, Metrics, Ranking};
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::{Classifier, Results, Task, argmax, cross_entropy, labels, logits_json, softmax};
use serde_json::{Map, Value, json};
use tch::Tensor;

/// A linear classifier on the summary, trained with cross entropy.
#[derive(Debug)]
pub struct SequenceClassification {
    head: Classifier,
    labels: Vec<String>,
}

impl SequenceClassification {
    /// Declares `classifier` in the builder's stage; `labels` in the order of their ids.
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

    /// Examples by how sure it is that they have the second label of two. The difference of the logits orders them as the
    /// probability does, but for probabilities that are rounded to the same.
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
        vec![cross_entropy(&logits[0], labels)]
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
            // Where all examples have one label they are not defined, and then not among the metrics.
            metrics.extend(of_ranking(Ranking::roc_auc).map(|value| ("roc_auc", value)));
            metrics.extend(of_ranking(Ranking::average_precision).map(|value| ("average_precision", value)));
        }
        metrics
    }

    fn positive_label(&self) -> Option<&str> {
        if let [_, positive] = self.labels.as_slice() { Some(positive) } else { None }
    }

    fn warning(&self, results: &Results) -> Option<String> {
        let confusion = self.confusion(results);
        let label = &self.labels[confusion.only_prediction()?];
        Some(format!(
            "all {} predictions are {label:?}, although the examples have other labels too: the model does not tell them \
             apart (yet). Train longer, try another learning rate, or give it about as many examples of each label",
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
    use crate::tasks::letters;

    /// Metrics and warning of a classifier with such labels, of examples (label, logits).
    fn told<const N: usize>(labels: [&str; N], examples: &[(u32, [f32; N])]) -> (Metrics, Option<String>) {
        let task = SequenceClassification { head: letters::head(N), labels: labels.map(str::to_owned).to_vec() };
        let example = |(label, _): &(u32, [f32; N])| Example::single(vec![0], vec![0], Label::Class(*label));
        let dataset = Dataset::new(examples.iter().map(example), Collation::Plain, [0; 32]);
        let answers: Vec<f32> = examples.iter().flat_map(|(_, logits)| *logits).collect();
        let offsets: Vec<usize> = (0..=examples.len()).map(|i| i * N).collect();
        let references = Value::Null;
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        (task.metrics(&results), task.warning(&results))
    }

    fn value(metrics: &Metrics, name: &str) -> Option<f64> {
        metrics.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    }

    #[test]
    fn two_labels_have_a_positive_one() {
        // Scores of "yes": 1, -1, -1, 2; right but for the second example.
        let examples = [(1, [0.0, 1.0]), (1, [1.0, 0.0]), (0, [0.5, -0.5]), (1, [-1.0, 1.0])];
        let (metrics, warning) = told(["no", "yes"], &examples);
        assert_eq!(value(&metrics, "binary_f1"), Some(0.8));
        assert_eq!(value(&metrics, "roc_auc"), Some(2.5 / 3.0));
        assert_eq!(value(&metrics, "average_precision"), Some((1.0 + 1.0 + 0.75) / 3.0));
        assert_eq!(warning, None);
        // Logits whose probabilities are rounded to the same number.
        let (metrics, _) = told(["no", "yes"], &[(1, [0.0, 90.0]), (0, [0.0, 80.0])]);
        assert_eq!(value(&metrics, "roc_auc"), Some(1.0));
    }

    #[test]
    fn what_is_not_defined_is_left_out() {
        let (metrics, _) = told(["no", "yes"], &[(0, [0.0, 1.0]), (0, [1.0, 0.0])]);
        assert_eq!(value(&metrics, "binary_f1"), Some(0.0));
        assert!(value(&metrics, "roc_auc").or(value(&metrics, "average_precision")).is_none(), "{metrics:?}");
        let (metrics, _) = told(["a", "b", "c"], &[(0, [0.0, 1.0, 0.0]), (2, [1.0, 0.0, 0.0])]);
        assert_eq!(metrics.len(), 4, "{metrics:?}");
    }

    #[test]
    fn a_single_class_is_told() {
        let (_, warning) = told(["no", "yes"], &[(0, [0.0, 1.0]), (1, [0.0, 1.0])]);
        let warning = warning.expect("a warning");
        assert!(warning.starts_with("all 2 predictions are \"yes\", "), "{warning}");
        assert_eq!(told(["no", "yes"], &[(1, [0.0, 1.0]), (1, [0.0, 1.0])]).1, None);
    }
}
