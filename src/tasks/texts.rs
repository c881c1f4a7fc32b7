//! Encodes records of text and label for classification and regression.

use super::classes::{self, Classes};
use super::corpus::many;
use super::record_filter::RecordFilter;
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::{Example, Label};
use crate::error::{Context, Error, Result};
use crate::text::files::Files;
use crate::text::records::{self, RawLabel, Record, Records, Source};
use crate::text::tokenizer::{self, Tokenizer};

const NO_TOKENS: &str = "the text has no tokens, and the tokenizer adds no special tokens";

/// Minimum number of records for comparing the first row with the others.
const ENOUGH_RECORDS: usize = 10;

/// The type of the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Single-label.
    Class {
        /// Class names by index. `None`: those that the files have for their classes, if they agree; else inferred from
        /// the data, sorted as strings.
        labels: Option<Vec<String>>,
    },
    /// Multi-label: any number of classes, including none.
    Flags {
        /// As in [`Target::Class`].
        labels: Option<Vec<String>>,
    },
    /// A finite number.
    Value,
    /// No label is read.
    None,
}

/// Encodes a file of labelled texts or pairs to examples of at most `max_length` tokens.
#[derive(Debug, Clone)]
pub struct Texts {
    pub source: Source,
    pub target: Target,
    pub max_length: usize,
    /// Whether to mark the words of the texts.
    pub words: bool,
}

impl Texts {
    /// Returns the source, with the label column only if labels are read.
    fn source(&self) -> Source {
        let mut source = self.source.clone();
        if self.target == Target::None {
            source.fields.label = None;
        }
        source.fields.many_labels = matches!(self.target, Target::Flags { .. });
        source.fields.numeric = self.target == Target::Value;
        source
    }

    fn classes(&self, read: &Records) -> Result<Option<Classes>> {
        let (Target::Class { labels } | Target::Flags { labels }) = &self.target else { return Ok(None) };
        let files = &self.source.files;
        let advice = "is label_column right? (for a file without a header: columns)";
        let of_files = self.source.fields.label.as_ref().map(|column| read.class_names(column)).unwrap_or_default();
        let classes = Classes::new(labels.as_deref(), all_labels(&read.records), &of_files, files, advice)?;
        if labels.is_none() {
            no_header(read, files)?;
        }
        Ok(Some(classes))
    }

    fn label(&self, record: &Record, classes: Option<&Classes>) -> Result<Label, String> {
        let labels = record.labels.as_slice();
        match (&self.target, classes, labels) {
            (Target::Flags { .. }, Some(classes), _) => {
                let mut flags = vec![false; classes.names.len()];
                for label in labels {
                    flags[classes.index(label, "label")? as usize] = true;
                }
                Ok(Label::Flags(flags))
            }
            (Target::Class { .. }, Some(classes), [label]) => classes.index(label, "label").map(Label::Class),
            (Target::Value, _, [label]) => number(label).map(Label::Value),
            (Target::None, ..) => Ok(Label::None),
            _ => Err("no label".into()),
        }
    }
}

impl Encode for Texts {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let source = self.source();
        let Source { columns, header, fields, on_bad_record, .. } = &source;
        let formats = records::formats(&source.files, source.format);
        // Before classes had names, they were numbers.
        let named = fields.label.is_some() && !fields.numeric && formats.iter().flatten().any(|f| f.is_columnar());
        let reading = (formats, columns, header, fields, on_bad_record);
        let settings = format!("{:?}", ("texts", self.max_length, &self.target, reading));
        let settings = if named { settings + " with names of classes" } else { settings };
        if self.words { settings + " with words" } else { settings }
    }

    /// # Errors
    /// Those of [`records::read`]; unless invalid records are skipped: an unknown label, or one that is not a finite
    /// number; a text without tokens (up to ten reasons listed with file and lines). If classes are inferred from the
    /// data: too many classes, or a first row that looks like a header.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let source = self.source();
        let read = records::read(&source)?;
        let classes = self.classes(&read).context(&source.files)?;
        let labelled = source.fields.label.is_some();
        let mut filter = RecordFilter::new(&source.files, source.on_bad_record, labelled, read.skipped);
        let label = |record| (self.label(record, classes.as_ref())).map(|label| (label, record));
        let labelled = filter.keep(read.records.iter().map(|record| (record.line, label(record))))?;

        let inputs: Vec<_> = labelled.iter().map(|(_, r)| (r.text.as_str(), r.text_pair.as_deref())).collect();
        let encoded: Vec<(tokenizer::Encoded, Vec<u8>)> = match self.words {
            true => tokenizer.encode_words(&inputs, self.max_length)?,
            false => {
                let encoded = tokenizer.encode_batch(&inputs, self.max_length)?;
                encoded.into_iter().map(|encoded| (encoded, Vec::new())).collect()
            }
        };
        let truncated = encoded.iter().filter(|(encoded, _)| encoded.truncated).count();
        let examples = encoded.into_iter().zip(labelled).map(|((encoded, words), (label, record))| {
            (record.line, single(encoded, label).map(|example| (example, words, record.weight)))
        });
        let mut extras = Extras::default();
        let examples = filter.keep(examples)?.into_iter().map(|(example, words, weight)| {
            extras.words.extend(self.words.then_some(words));
            extras.weights.extend(weight);
            example
        });
        let examples = examples.collect();
        let plain = Encoded::plain(examples, read.hashes, filter.bad, truncated);
        // Without labels, there is no other hint that the first row may be a header.
        let guessed = read.guessed.filter(|_| self.target == Target::None && source.columns.is_none());
        let remark = |line| {
            format!(
                "{} is read as a record, as it contains no known column name (else set header = true)",
                source.files.line(line)
            )
        };
        let mut remarks = read.remarks;
        remarks.extend(guessed.map(remark));
        let is_blank = |record: &&Record| {
            record.text.trim().is_empty() && record.text_pair.as_ref().is_none_or(|pair| pair.trim().is_empty())
        };
        let blank = read.records.iter().filter(is_blank).count();
        remarks.extend((blank > 0).then(|| format!("{} blank", many(blank, "text"))));
        let labels = classes.map(|classes| classes.names);
        let names = labels.as_deref().unwrap_or_default();
        remarks.extend(classes::remarks(names, all_labels(&read.records), &source.files));
        Ok(Encoded { labels, remarks, extras, ..plain })
    }
}

/// Returns the labels with the lines of their records.
fn all_labels(records: &[Record]) -> impl Iterator<Item = (usize, &RawLabel)> {
    records.iter().flat_map(|record| record.labels.iter().map(|label| (record.line, label)))
}

/// Encodes one text, or a pair, without a label, as if it were a record.
///
/// # Errors
/// Exit 2: a text without tokens; as [`Tokenizer::encode`].
pub fn one(tokenizer: &Tokenizer, text: &str, pair: Option<&str>, max_length: usize) -> Result<Example> {
    single(tokenizer.encode(text, pair, max_length)?, Label::None).map_err(Error::input)
}

/// Returns an example of one sequence, or an error message.
pub(super) fn single(encoded: tokenizer::Encoded, label: Label) -> Result<Example, String> {
    if encoded.ids.is_empty() {
        return Err(NO_TOKENS.into());
    }
    Ok(Example::single(encoded.ids, encoded.type_ids, label))
}

/// Returns an example of several sequences, or an error message.
pub(super) fn several(sequences: Vec<tokenizer::Encoded>, label: Label) -> Result<Example, String> {
    let lengths: Vec<u32> = sequences.iter().map(|own| own.ids.len() as u32).collect();
    if lengths.contains(&0) {
        return Err(NO_TOKENS.into());
    }
    let ids = sequences.iter().flat_map(|own| own.ids.iter().copied()).collect();
    let type_ids = sequences.iter().flat_map(|own| own.type_ids.iter().copied()).collect();
    Ok(Example { ids, type_ids, lengths, label })
}

/// Returns the number that a label is, or an error message.
pub(super) fn number(label: &RawLabel) -> Result<f32, String> {
    let raw = label.as_str();
    // A finite f64 may overflow to infinity as f32.
    let value = raw.trim().parse::<f64>().map(|value| value as f32).ok().filter(|value| value.is_finite());
    value.ok_or_else(|| format!("the label {raw:?} is not a finite number"))
}

/// Rejects a first row that was assumed to be a record, but whose label is not a number and unique: almost certainly a
/// header.
fn no_header(read: &Records, files: &Files) -> Result<()> {
    let first = read.records.first().filter(|first| read.guessed == Some(first.line));
    let Some((first, [label])) = first.map(|first| (first, first.labels.as_slice())) else { return Ok(()) };
    let others = read.records.iter().skip(1).flat_map(|record| &record.labels);
    let few = read.records.len() < ENOUGH_RECORDS;
    if few
        || label.as_str().trim().parse::<f64>().is_ok()
        || others.into_iter().any(|other| other.as_str() == label.as_str())
    {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} looks like a header ({:?}, {:?}): set text_column and label_column, or header = false",
        files.line(first.line),
        first.text,
        label.as_str()
    )))
}

#[cfg(test)]
#[path = "texts_tests.rs"]
mod tests;
