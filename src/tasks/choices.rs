//! Encodes multiple-choice questions.

use super::record_filter::RecordFilter;
use super::texts::several;
use crate::data::Label;
use crate::data::prepare::{Encode, Encoded};
use crate::error::Result;
use crate::text::choices::{self, ChoiceSource};
use crate::text::files::Files;
use crate::text::parallel::on_all_cores;
use crate::text::records;
use crate::text::tokenizer::{self, Tokenizer};

/// Encodes a file of multiple-choice questions; each choice is a sequence of at most `max_length` tokens.
///
/// A sequence is a pair, as in Hugging Face's examples for SWAG and RACE: the context, and `question choice`. Without a
/// context it is the question and the choice. Only the first text of a pair is truncated.
#[derive(Debug, Clone)]
pub struct Choices {
    pub source: ChoiceSource,
    pub max_length: usize,
}

impl Encode for Choices {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let ChoiceSource { files, format, question, context, choices, label, on_bad_record } = &self.source;
        let formats = records::formats(files, *format);
        format!("{:?}", ("choices", self.max_length, formats, question, context, choices, label, on_bad_record))
    }

    /// # Errors
    /// Those of [`choices::read`]; unless invalid records are skipped: a choice that is too long (up to ten reasons
    /// listed with file and lines).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let ChoiceSource { files, label, on_bad_record, .. } = &self.source;
        let read = choices::read(&self.source)?;
        let mut filter = RecordFilter::new(files, *on_bad_record, label.is_some(), read.skipped);
        let encoded = on_all_cores(&read.records, |record| self.sequences(record, tokenizer));
        let encoded = encoded.into_iter().collect::<Result<Vec<_>>>()?;
        let questions = read.records.iter().zip(encoded);
        let questions =
            filter.keep(questions.map(|(record, found)| (record.line, found.map(|found| (record, found)))))?;
        let truncated = questions.iter().filter(|(_, found)| found.iter().any(|e| e.truncated)).count();
        let label = |record: &choices::Choices| record.label.map_or(Label::None, Label::Class);
        let examples = questions.into_iter().map(|(record, found)| (record.line, several(found, label(record))));
        let examples = filter.keep(examples)?;
        Ok(Encoded { remarks: read.remarks, ..Encoded::plain(examples, read.hashes, filter.bad, truncated) })
    }
}

impl Choices {
    /// Returns one sequence per choice, or the message for a choice that is too long.
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
                let why = "leaves no room for the other text in max_length =";
                return Ok(Err(format!("choice {n}{what} {why} {}; shorten it, or raise max_length", self.max_length)));
            };
            sequences.push(encoded);
        }
        Ok(Ok(sequences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::error::Kind;
    use crate::tasks::fixtures;
    use crate::text::records::OnBad;

    fn read(content: &str, max_length: usize, on_bad_record: OnBad) -> Result<Prepared> {
        let dir = fixtures::folder();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let (question, choices, label) = ("question".into(), "choices".into(), Some("label".into()));
        let source =
            ChoiceSource { files: path.into(), format: None, question, context: None, choices, label, on_bad_record };
        prepare(&Choices { source, max_length }, dir.path(), Some(&dir.path().join("cache")))
    }

    const CONTENT: &str = r#"{"question": "q", "context": "a b c", "choices": ["x", "y z"], "label": 1}
{"question": "q r s", "choices": ["x", "y", "z"], "label": "A"}"#;

    #[test]
    fn each_choice_is_a_sequence() {
        let data = read(CONTENT, 9, OnBad::Error).unwrap().dataset;
        // CLS a b c SEP q x SEP, CLS a b c SEP q y z SEP: every choice repeats the question.
        assert_eq!(data.ids(0), [2, 5, 6, 7, 3, 21, 28, 3, 2, 5, 6, 7, 3, 21, 29, 30, 3]);
        assert_eq!(data.type_ids(0), [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!((data.sequences(0), data.label(0)), (vec![8, 9], Label::Class(1)));
        assert_eq!(data.ids(1)[..7], [2, 21, 22, 23, 3, 28, 3]);
        assert_eq!((data.sequences(1), data.label(1)), (vec![7, 7, 7], Label::Class(0)));
    }

    #[test]
    fn only_the_context_is_truncated() {
        let prepared = read(CONTENT, 7, OnBad::Error).unwrap();
        assert_eq!(prepared.dataset.ids(0), [2, 5, 6, 3, 21, 28, 3, 2, 5, 3, 21, 29, 30, 3]);
        assert_eq!(prepared.facts.truncated, 1);
        let error = read(CONTENT, 6, OnBad::Error).err().unwrap();
        let expected = "a.jsonl:1: choice 2 with its question leaves no room for the other text in max_length = 6; \
                        shorten it, or raise max_length";
        assert!(error.kind() == Kind::Input && error.to_string().contains(expected), "{error}");
        let skipped = read(CONTENT, 6, OnBad::Skip).unwrap();
        assert_eq!((skipped.dataset.len(), skipped.facts.skipped, skipped.facts.truncated), (1, 1, 1));
        let error = read(CONTENT, 4, OnBad::Error).err().unwrap().to_string();
        assert!(error.contains("a.jsonl:2: choice 1 leaves no room"), "{error}");
    }
}
