//! Questions with choices: what multiple choice reads.

use super::sieve::Sieve;
use crate::data::collation::Collation;
use crate::data::prepare::{Encode, Encoded};
use crate::data::{Example, Label};
use crate::error::Result;
use crate::text::choices::{self, ChoiceSource};
use crate::text::tokenizer::{self, Tokenizer, on_all_cores};
use serde_json::Value;
use std::path::Path;

/// A file of questions with choices and how they become examples, each choice a sequence of at most `max_length` tokens.
///
/// A sequence is a pair, as Hugging Face's examples for SWAG and RACE have it: the context, then the question, a space
/// and the choice. Without a context it is the question, then the choice. A pair that is too long loses tokens from the
/// end of its first text, and never any of the second.
#[derive(Debug, Clone)]
pub struct Choices {
    pub source: ChoiceSource,
    pub max_length: usize,
}

impl Encode for Choices {
    fn files(&self) -> Vec<&Path> {
        vec![&self.source.path]
    }

    fn settings(&self) -> String {
        let ChoiceSource { question, context, choices, label, on_bad_record, .. } = &self.source;
        format!("{:?}", ("choices", self.max_length, question, context, choices, label, on_bad_record))
    }

    /// # Errors
    /// Those of [`choices::read`]; unless bad records are skipped: a choice that does not fit (up to ten reasons listed
    /// with file and lines).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let ChoiceSource { path, label, on_bad_record, .. } = &self.source;
        let read = choices::read(&self.source)?;
        let mut sieve = Sieve::new(path, *on_bad_record, label.is_some(), read.skipped);
        let encoded = on_all_cores(&read.records, |record| self.sequences(record, tokenizer))?;
        let questions = read.records.iter().zip(encoded);
        let questions =
            sieve.keep(questions.map(|(record, found)| (record.line, found.map(|found| (record, found)))))?;
        let truncated = questions.iter().filter(|(_, found)| found.iter().any(|e| e.truncated)).count();
        Ok(Encoded {
            examples: questions.into_iter().map(|(record, found)| example(found, record.label)).collect(),
            collation: Collation::Plain,
            hashes: vec![read.bytes_hash],
            labels: None,
            skipped: sieve.bad,
            truncated,
            remarks: Vec::new(),
            references: Value::Null,
        })
    }
}

impl Choices {
    /// A sequence for each choice, or which of them does not fit.
    fn sequences(
        &self,
        record: &choices::Choices,
        tokenizer: &Tokenizer,
    ) -> Result<Result<Vec<tokenizer::Encoded>, String>> {
        let mut sequences = Vec::with_capacity(record.choices.len());
        for (n, choice) in (1..).zip(&record.choices) {
            let (first, second, what) = match &record.context {
                Some(context) => (context, &format!("{} {choice}", record.question), " with its question"),
                None => (&record.question, choice, ""),
            };
            let encoded = tokenizer.encode_only_first(first, second, self.max_length)?;
            let Some(encoded) = encoded.filter(|encoded| !encoded.ids.is_empty()) else {
                let why = "leaves no room for any other text in max_length";
                return Ok(Err(format!("choice {n}{what} {why} {}; shorten it, or raise max_length", self.max_length)));
            };
            sequences.push(encoded);
        }
        Ok(Ok(sequences))
    }
}

/// The example of the sequences of all choices.
fn example(sequences: Vec<tokenizer::Encoded>, label: Option<u32>) -> Example {
    Example {
        ids: sequences.iter().flat_map(|e| e.ids.iter().copied()).collect(),
        type_ids: sequences.iter().flat_map(|e| e.type_ids.iter().copied()).collect(),
        lengths: sequences.iter().map(|e| e.ids.len() as u32).collect(),
        label: label.map_or(Label::None, Label::Class),
    }
}
