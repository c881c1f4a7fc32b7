//! Multiple choice: one score per choice, encoded with the question and its context.

use super::cross_entropy;
use crate::data::batch::{Batch, Labels, Taught};
use crate::data::ragged::pad;
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::taught::ragged_divergence;
use crate::tasks::{Classifier, ExampleTable, Results, Task, argmax, logits_json, softmax};
use crate::text::Tokenizer;
use serde_json::{Map, Value, json};
use tch::Tensor;

/// Returns the number of choices of each example.
fn widths(batch: &Batch) -> Vec<i64> {
    batch.widths.iter().map(|&n| n as i64).collect()
}

/// A linear layer with one output on the pooled output of each choice; cross entropy over the choices of an example.
#[derive(Debug)]
pub struct MultipleChoice {
    head: Classifier,
}

impl MultipleChoice {
    /// Declares the head in the builder's block.
    pub fn new(backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        MultipleChoice { head: Classifier::new(1, backbone, b) }
    }
}

impl Task for MultipleChoice {
    fn kind(&self) -> &'static str {
        "multiple-choice"
    }

    /// Returns `[S, 1]`: the score of each sequence.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        vec![self.head.of_sequences(backbone, hidden, batch, ctx)]
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Classes(classes) = &batch.labels else { panic!("multiple choice needs class labels") };
        vec![cross_entropy(
            &pad(&logits[0].view(-1), &widths(batch), batch.score_positions.as_ref(), f64::NEG_INFINITY),
            classes,
            batch,
        )]
    }

    fn taught_losses(&self, logits: &Boundary, taught: &Taught, batch: &Batch) -> Tensor {
        let logits = [&logits[0], &taught.logits[0]].map(|logits| logits.view(-1));
        let positions = batch.score_positions.as_ref();
        ragged_divergence([&logits[0], &logits[1]], &widths(batch), positions, taught.temperature)
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        dataset.sequences(i).len()
    }

    fn metrics(&self, results: &Results) -> Metrics {
        let correct = results.iter().enumerate().filter(|(i, answer)| match results.dataset.label(*i) {
            Label::Class(class) => argmax(answer) == class as usize,
            _ => false,
        });
        vec![("accuracy", correct.count() as f64 / results.dataset.len() as f64)]
    }

    fn worst(&self, results: &Results, _: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        Ok(Some(ExampleTable::wrong_classes(results, |choice| choice.to_string(), most)))
    }

    /// Returns the index of the most probable choice, and the probabilities of all choices.
    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let line = |logits: &[f32]| {
            let line = [("label".to_owned(), json!(argmax(logits))), ("scores".to_owned(), json!(softmax(logits)))];
            line.into_iter().chain(scores.then(|| ("logits".to_owned(), logits_json(logits)))).collect()
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};
    use crate::tasks::fixtures;

    #[test]
    fn questions_may_differ_in_their_number_of_choices() {
        let task = MultipleChoice { head: fixtures::head(1) };
        let example = |n: usize, label: u32| Example {
            ids: vec![0; n],
            type_ids: vec![0; n],
            lengths: vec![1; n],
            label: Label::Class(label),
        };
        let dataset = Dataset::new([example(2, 1), example(3, 0), example(4, 3)], Collation::Plain, [0; 32]);
        let answers = [-1.0, 1.0, 0.0, 0.5, 0.25, 0.0, 0.0, 0.0, 2.0];
        let (offsets, references) = ([0, 2, 5, 9], Value::Null);
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        assert_eq!([0, 1, 2].map(|i| task.answer_size(&dataset, i)), [2, 3, 4]);
        assert_eq!(task.metrics(&results), [("accuracy", 2.0 / 3.0)]);
        let worst = task.worst(&results, None, 9).unwrap().unwrap().rows;
        assert_eq!((worst.len(), worst[0].example), (1, 1));
        assert_eq!((worst[0].label.as_str(), worst[0].predicted.as_str()), ("0", "1"));
        let lines = task.predictions(&results, true);
        let labels: Vec<&Value> = lines.iter().map(|line| &line["label"]).collect();
        assert_eq!(labels, [&json!(1), &json!(1), &json!(3)]);
        let scores: Vec<f64> = serde_json::from_value(lines[0]["scores"].clone()).unwrap();
        assert!((scores[1] - 0.880_797_077_977_882_3).abs() < 1e-12 && (scores[0] + scores[1] - 1.0).abs() < 1e-12);
        assert_eq!(lines[0]["logits"], json!([-1.0, 1.0]));
    }
}
