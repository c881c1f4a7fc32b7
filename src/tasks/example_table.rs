//! Examples of an evaluation for a report: what was expected, and what the model returns.

use super::{Results, argmax, softmax};
use crate::data::{Collation, Dataset, Label};
use crate::error::Result;
use crate::text::Tokenizer;

/// Characters of a text that a report shows.
pub const TEXT: usize = 1000;

/// A list of examples.
#[derive(Debug, Clone, PartialEq)]
pub struct ExampleTable {
    pub title: &'static str,
    /// The names of the numbers of each row.
    pub columns: &'static [&'static str],
    pub rows: Vec<ExampleRow>,
}

/// An example. What is not known, or a text that is not to be shown, is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExampleRow {
    /// The position in the data set; of question answering the number of the question, from 0.
    pub example: usize,
    pub label: String,
    pub predicted: String,
    /// One for each of [`ExampleTable::columns`].
    pub numbers: Vec<f64>,
    /// What the model reads.
    pub text: String,
}

impl ExampleTable {
    /// Creates the table of the `most` worst rows, those with the greatest `badness` first.
    pub fn worst(
        columns: &'static [&'static str],
        mut rows: Vec<ExampleRow>,
        badness: impl Fn(&ExampleRow) -> f64,
        most: usize,
    ) -> Self {
        // Stable: of equally bad examples the first comes first.
        rows.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
        rows.truncate(most);
        ExampleTable { title: "Worst errors", columns, rows }
    }

    /// Creates the table of the `most` examples with the highest loss, from the loss of each example.
    pub fn highest_loss(losses: &[Option<f64>], most: usize) -> Self {
        let row = |(example, loss): (usize, &Option<f64>)| {
            Some(ExampleRow { example, numbers: vec![(*loss)?], ..ExampleRow::default() })
        };
        let rows = losses.iter().enumerate().filter_map(row).collect();
        let title = "Examples with the highest loss";
        ExampleTable { title, ..ExampleTable::worst(&["loss"], rows, |row| row.numbers[0], most) }
    }

    /// Creates the table of the examples of [`Label::Class`] that are predicted wrongly, those with the greatest
    /// negative log likelihood of the label first. The answers are logits, `[C]` for each example; `name` returns the
    /// name of a class.
    pub fn wrong_classes(results: &Results, name: impl Fn(usize) -> String, most: usize) -> Self {
        let wrong = |(example, logits): (usize, &[f32])| {
            let Label::Class(label) = results.dataset.label(example) else { return None };
            let (label, best, probabilities) = (label as usize, argmax(logits), softmax(logits));
            let loss = -probabilities[label].max(f64::MIN_POSITIVE).ln();
            (label != best).then(|| ExampleRow {
                example,
                label: name(label),
                predicted: name(best),
                numbers: vec![probabilities[best], loss],
                ..ExampleRow::default()
            })
        };
        let rows = results.iter().enumerate().filter_map(wrong).collect();
        ExampleTable::worst(&["score", "loss"], rows, |row| row.numbers[1], most)
    }

    /// Returns the table without labels and predictions, which are texts, unless there is a tokenizer to show texts.
    pub fn only_numbers_without(mut self, texts: Option<&Tokenizer>) -> Self {
        if texts.is_none() {
            self.rows.iter_mut().for_each(|row| {
                *row = ExampleRow {
                    example: row.example,
                    numbers: std::mem::take(&mut row.numbers),
                    ..ExampleRow::default()
                }
            });
        }
        self
    }

    /// Adds the text of each row that has none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn add_texts(&mut self, dataset: &Dataset, tokenizer: &Tokenizer) -> Result<()> {
        for row in self.rows.iter_mut().filter(|row| row.text.is_empty()) {
            row.text = text(dataset, row.example, tokenizer)?;
        }
        Ok(())
    }
}

/// Returns the text of an example's tokens without special tokens, a line for each sequence; of a source and its target
/// that of the source.
///
/// # Errors
/// As [`Tokenizer::decode`].
pub fn text(dataset: &Dataset, example: usize, tokenizer: &Tokenizer) -> Result<String> {
    Ok(sequence_texts(dataset, example, tokenizer)?.join("\n"))
}

/// Returns a text, or the beginning of a text with more than `most` characters.
pub fn beginning(text: &str, most: usize) -> String {
    let short: String = text.chars().take(most).collect();
    if short.len() < text.len() { short + " ..." } else { short }
}

/// Returns a text, or the end of a text with more than `most` characters.
pub fn ending(text: &str, most: usize) -> String {
    let more = text.chars().count().saturating_sub(most);
    let short: String = text.chars().skip(more).collect();
    if more > 0 { format!("... {short}") } else { short }
}

/// Returns the text of each sequence, as [`text`].
///
/// # Errors
/// As [`Tokenizer::decode`].
pub fn sequence_texts(dataset: &Dataset, example: usize, tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let tokens: Vec<(u8, u32)> =
        dataset.type_ids(example).iter().copied().zip(dataset.ids(example).iter().copied()).collect();
    let mut lengths = dataset.sequences(example);
    if matches!(dataset.collation(), Collation::SourceTarget { .. }) {
        lengths.truncate(1);
    }
    let mut rest = tokens.as_slice();
    let line = |length: u32| {
        let (own, others) = rest.split_at(length as usize);
        rest = others;
        let segments = own.chunk_by(|a, b| a.0 == b.0);
        let texts = segments.map(|tokens| tokenizer.decode(&tokens.iter().map(|token| token.1).collect::<Vec<_>>()));
        Ok(texts.collect::<Result<Vec<_>>>()?.join(" | "))
    };
    lengths.into_iter().map(line).collect()
}
