//! Multiple choice: one score per choice, encoded with the question and its context.

use super::cross_entropy;
use crate::data::batch::{Batch, Labels, Taught};
use crate::data::ragged::pad;
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::models::{Backbone, Boundary};
use crate::nn::{Ctx, ParamBuilder};
use crate::tasks::example_table::{TEXT, ending, sequence_texts};
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

    fn worst(&self, results: &Results, texts: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        let mut table = ExampleTable::wrong_classes(results, |choice| choice.to_string(), most);
        if let Some(tokenizer) = texts {
            for row in &mut table.rows {
                row.text = text_of(&sequence_texts(results.dataset, row.example, tokenizer)?);
            }
        }
        Ok(Some(table))
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

/// Returns what the sequences of a question have in common, and a line for the rest of each, with the number of its
/// choice. Long texts are cut at their beginning, because question and choice are at the end.
fn text_of(sequences: &[String]) -> String {
    let shared = shared_words(sequences);
    let room = TEXT * 3 / 4 / sequences.len().max(1);
    let line = |(choice, text): (usize, &String)| format!("\n{choice}: {}", ending(text[shared..].trim(), room));
    let choices: String = sequences.iter().enumerate().map(line).collect();
    let beginning = sequences.first().map_or("", |first| first[..shared].trim());
    // Four characters for the mark of what is missing.
    let left = TEXT.saturating_sub(choices.chars().count() + 4);
    format!("{}{choices}", ending(beginning, left)).trim_start().to_owned()
}

/// Returns the number of bytes of the words with which all texts begin; something of each text remains.
fn shared_words(texts: &[String]) -> usize {
    let Some((first, others)) = texts.split_first() else { return 0 };
    let shared = |other: &String| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let most = others.iter().map(shared).min().unwrap_or(0);
    let after = |(at, c): (usize, char)| Some(at + c.len_utf8()).filter(|after| c.is_whitespace() && *after <= most);
    first.char_indices().filter_map(after).next_back().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};
    use crate::tasks::fixtures;

    #[test]
    fn the_choices_are_shown_after_what_they_share() {
        let texts = |own: &[&str], shared: &str| own.iter().map(|own| format!("{shared}{own}")).collect::<Vec<_>>();
        let few = texts(&["tea", "a café", "a cafè", "teapots"], "She drinks | what? ");
        assert_eq!(text_of(&few), "She drinks | what?\n0: tea\n1: a café\n2: a cafè\n3: teapots");
        let long = texts(&["yes", "no", "maybe", "the end"], &format!("{}why?", "word ".repeat(1000)));
        let shown = text_of(&long);
        assert!(shown.chars().count() <= TEXT && shown.starts_with("... "), "{shown}");
        assert!(shown.contains("\n0: why?yes\n1: why?no\n2: why?maybe\n3: why?the end"), "{shown}");
        // Contexts that were truncated differently: each choice is at the end.
        let shown = text_of(&[format!("a {} | yes", "b".repeat(900)), format!("a {} | no", "b".repeat(901))]);
        assert!(shown.starts_with("a\n0: ... b") && shown.contains("b | yes\n1: ... b"), "{shown}");
        assert!(shown.ends_with("b | no") && shown.chars().count() <= TEXT, "{shown}");
        assert_eq!((text_of(&[]), text_of(&["one".into()])), (String::new(), "0: one".into()));
    }

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
