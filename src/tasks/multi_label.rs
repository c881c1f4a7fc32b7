//! Multi-label classification.

use crate::data::batch::{Batch, Labels, Taught};
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::metrics::{ClassReport, Metrics, MultiLabel as Counts};
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::taught::binary;
use crate::tasks::{Classifier, ExampleRow, ExampleTable, Results, Task, labels, logits_json, weighted};
use crate::text::Tokenizer;
use serde_json::{Map, Value, json};
use tch::{Reduction, Tensor};

/// The logit of probability 0.5.
const THRESHOLD: f32 = 0.0;

/// A linear layer on the pooled output; each output is a binary classifier (binary cross entropy with logits).
#[derive(Debug)]
pub struct MultiLabel {
    head: Classifier,
    labels: Vec<String>,
}

impl MultiLabel {
    /// Declares the head in the builder's block; `labels` in order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let head = Classifier::new(labels.len(), backbone, b);
        MultiLabel { head, labels }
    }

    fn counts(&self, results: &Results) -> Counts {
        let mut counts = Counts::new(self.labels.len());
        for (i, logits) in results.iter().enumerate() {
            if let Label::Flags(flags) = results.dataset.label(i) {
                counts.add(&flags, logits, THRESHOLD);
            }
        }
        counts
    }
}

impl Task for MultiLabel {
    fn kind(&self) -> &'static str {
        "multi-label"
    }

    /// Returns `[B, C]`.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        vec![self.head.of_sequences(backbone, hidden, batch, ctx)]
    }

    /// Returns for each example the mean over the labels.
    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Flags(flags) = &batch.labels else { panic!("multi-label classification needs flags") };
        let each = logits[0].binary_cross_entropy_with_logits::<Tensor>(flags, None, None, Reduction::None);
        vec![weighted(each.mean_dim(1, false, tch::Kind::Float), batch)]
    }

    fn taught_losses(&self, logits: &Boundary, taught: &Taught, _: &Batch) -> Tensor {
        binary([&logits[0], &taught.logits[0]], taught.temperature)
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        self.labels.len()
    }

    /// Computes subset accuracy, macro F1 and micro F1.
    fn metrics(&self, results: &Results) -> Metrics {
        let counts = self.counts(results);
        vec![("accuracy", counts.accuracy()), ("f1", counts.macro_f1()), ("micro_f1", counts.micro_f1())]
    }

    fn report(&self, results: &Results) -> Option<ClassReport> {
        let counts = self.counts(results);
        let classes = self.labels.iter().cloned().zip(counts.labels().iter().copied()).collect();
        Some(ClassReport { unit: "examples", classes, confusion: None })
    }

    /// Those without exactly the right labels.
    fn worst(&self, results: &Results, _: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        let names = |chosen: &mut dyn Iterator<Item = bool>| {
            let names = self.labels.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(name, _)| name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let row = |(example, logits): (usize, &[f32])| {
            let Label::Flags(flags) = results.dataset.label(example) else { return None };
            let found = || logits.iter().map(|x| *x >= THRESHOLD);
            // Binary cross entropy, in the form that does not overflow.
            let each = logits.iter().zip(&flags).map(|(&x, &flag)| {
                let x = f64::from(x);
                x.max(0.0) - if flag { x } else { 0.0 } + (-x.abs()).exp().ln_1p()
            });
            let numbers = vec![each.sum::<f64>() / flags.len() as f64];
            let (label, predicted) = (names(&mut flags.iter().copied()), names(&mut found()));
            let wrong = found().ne(flags.iter().copied());
            wrong.then(|| ExampleRow { example, label, predicted, numbers, ..ExampleRow::default() })
        };
        let rows = results.iter().enumerate().filter_map(row).collect();
        Ok(Some(ExampleTable::worst(&["loss"], rows, |row| row.numbers[0], most)))
    }

    /// Returns the labels with a probability of at least 0.5, and all probabilities.
    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let line = |logits: &[f32]| {
            let of_labels = || self.labels.iter().zip(logits);
            let labels: Value = of_labels().filter(|(_, x)| **x >= THRESHOLD).map(|(label, _)| json!(label)).collect();
            let probability = |x: f32| 1.0 / (1.0 + f64::from(-x).exp());
            let probabilities: Map<_, _> = of_labels().map(|(l, &x)| (l.clone(), json!(probability(x)))).collect();
            let logits = scores.then(|| ("logits".to_owned(), logits_json(logits)));
            let line = [("labels".to_owned(), labels), ("scores".to_owned(), Value::Object(probabilities))];
            line.into_iter().chain(logits).collect()
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        let mut entries = labels::entries(&self.labels);
        entries.insert("problem_type".into(), json!("multi_label_classification"));
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};
    use crate::tasks::fixtures;

    #[test]
    fn labels_have_a_probability_of_at_least_one_half() {
        let task = MultiLabel { head: fixtures::head(2), labels: vec!["a".into(), "b".into()] };
        let flags = [[true, false], [false, false], [true, true]];
        let example = |flags: [bool; 2]| Example::single(vec![0], vec![0], Label::Flags(flags.to_vec()));
        let dataset = Dataset::new(flags.map(example), Collation::Plain, [0; 32]);
        let answers = [0.0, -0.5, -3.0, -2.0, 2.0, -1.0];
        let (offsets, references) = ([0, 2, 4, 6], Value::Null);
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        // a: 2 of 2 correct; b: 0 of 1 found.
        assert_eq!(task.metrics(&results), [("accuracy", 2.0 / 3.0), ("f1", 0.5), ("micro_f1", 0.8)]);
        // Only the third example has other labels than predicted: the mean of log(1 + e^-2) and log(1 + e).
        let rows = task.worst(&results, None, 9).unwrap().unwrap().rows;
        assert_eq!((rows.len(), rows[0].example, &*rows[0].label, &*rows[0].predicted), (1, 2, "a, b", "a"));
        assert!((rows[0].numbers[0] - 0.720_094_849_5).abs() < 1e-9, "{rows:?}");
        let lines = task.predictions(&results, true);
        let found: Vec<Value> = lines.iter().map(|line| line["labels"].clone()).collect();
        assert_eq!(found, [json!(["a"]), json!([]), json!(["a"])]);
        assert_eq!(lines[0]["scores"]["a"], json!(0.5));
        assert!((lines[2]["scores"]["b"].as_f64().unwrap() - 0.268_941_421_369_995_1).abs() < 1e-12);
        assert_eq!(lines[2]["logits"], json!([2.0, -1.0]));
        assert!(!task.predictions(&results, false)[0].contains_key("logits"));
    }
}
