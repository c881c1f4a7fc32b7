//! A record of text and label, and the settings of reading it.

use super::class_labels::ClassLabels;
use super::files::Files;
use super::part::Divisible;
use std::sync::Arc;

/// Files of records and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub files: Files,
    /// `None`: by each file's extension (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.tab`, `.parquet`, `.arrow`,
    /// `.feather`, `.ipc`).
    pub format: Option<Format>,
    /// Column names of a CSV or TSV file without a header. `None`: the names in `fields`: text, text_pair (if set),
    /// label.
    pub columns: Option<Vec<String>>,
    /// Whether the first row of a CSV or TSV file is a header. `None`: if it has all requested names, ignoring case.
    pub header: Option<bool>,
    pub fields: Fields,
    pub on_bad_record: OnBad,
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, blank lines are skipped; or a JSON array of objects.
    Jsonl,
    /// Separated by commas, semicolons or tabs, with double quotes (RFC 4180); a quoted cell may span lines.
    Csv,
    /// Tab-separated without quoting, like the files of GLUE: quotes are ordinary characters.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow's IPC file or stream format.
    Arrow,
}

impl Format {
    /// Whether files have columns, whose classes may have names.
    pub fn is_columnar(self) -> bool {
        matches!(self, Format::Parquet | Format::Arrow)
    }
}

/// The names of the columns to read.
#[derive(Clone, PartialEq, Eq)]
pub struct Fields {
    pub text: String,
    /// The second text. `None`: the column `text_pair`, if present.
    pub text_pair: Option<String>,
    /// The label. `None`: no label is read, as for prediction.
    pub label: Option<String>,
    /// Whether a record has any number of labels: a list in JSONL, comma-separated names in CSV and TSV.
    pub many_labels: bool,
    /// Whether the label is a number and no class. Classes that a file names are then read as their numbers.
    pub numeric: bool,
    /// The weight of the example in the loss; `None`: all have the same.
    pub weight: Option<String>,
    /// Texts that are no match for the text: one, or in JSON a list. `None`: none are read.
    pub negative: Option<String>,
    /// Whether the columns of the label and of the negatives may be missing.
    pub optional: bool,
}

/// As derived, without the fields of few tasks where they are not set, and without `numeric`, which follows from the
/// task: the text is part of the token cache's keys, which checkpoints contain.
impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fields { text, text_pair, label, many_labels, numeric: _, weight, negative, optional } = self;
        let mut fields = f.debug_struct("Fields");
        fields.field("text", text).field("text_pair", text_pair).field("label", label);
        fields.field("many_labels", many_labels);
        weight.as_ref().map(|weight| fields.field("weight", weight));
        negative.as_ref().map(|negative| fields.field("negative", negative));
        optional.then(|| fields.field("optional", optional));
        fields.finish()
    }
}

impl Default for Fields {
    fn default() -> Self {
        Fields {
            text: "text".into(),
            text_pair: None,
            label: Some("label".into()),
            many_labels: false,
            numeric: false,
            weight: None,
            negative: None,
            optional: false,
        }
    }
}

impl Fields {
    /// Returns the names of the columns that are set, in the order of a file without a header.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let Fields { text, text_pair, label, weight, negative, .. } = self;
        let others = [text_pair, label, weight, negative].into_iter().flatten();
        std::iter::once(text).chain(others)
    }
}

/// How to handle invalid records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    /// Fail with an error that lists the invalid records.
    Error,
    /// Skip the record and report it with its reason.
    Skip,
}

/// A label as written in the file: `pos`, `1`, `1.0`, `true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLabel {
    text: String,
    padded: bool,
}

impl RawLabel {
    /// Trims a label; an error message if nothing remains.
    pub fn new(label: impl Into<String>, column: &str) -> Result<Self, String> {
        let label = label.into();
        let text = label.trim();
        match text.is_empty() {
            true => Err(format!("the label (column {column:?}) is empty")),
            false => Ok(RawLabel { padded: text.len() < label.len(), text: text.to_owned() }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it had surrounding whitespace in the file.
    pub fn is_padded(&self) -> bool {
        self.padded
    }
}

/// Returns the weight of an example, or an error message; `column` is that of the weight.
pub(super) fn weight(text: &str, column: &str) -> Result<f32, String> {
    // A finite f64 may overflow to infinity as f32.
    let weight = text.trim().parse::<f64>().map(|weight| weight as f32).ok();
    let why = || format!("the weight (column {column:?}) is {text:?}; it must be a finite number >= 0");
    weight.filter(|weight| weight.is_finite() && *weight >= 0.0).ok_or_else(why)
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The line on which the record starts, from 1, and its file (a [`number`](super::files::number)).
    pub line: usize,
    /// The text, possibly empty.
    pub text: String,
    pub text_pair: Option<String>,
    /// The labels: exactly one if [`Fields::label`] is set and the column is there, any number if
    /// [`Fields::many_labels`] is.
    pub labels: Vec<RawLabel>,
    /// Finite, at least 0; set if [`Fields::weight`] is.
    pub weight: Option<f32>,
    /// At least one if [`Fields::negative`] is set, and the column is there.
    pub negatives: Vec<String>,
}

impl Divisible for Record {
    fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(RawLabel::as_str)
    }
}

/// A sentence of tagged words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Number of its first line, from 1.
    pub line: usize,
    /// At least one word; none is empty.
    pub words: Vec<String>,
    /// One tag per word; empty if [`TaggedSource::tags`](super::tagged::TaggedSource::tags) is `None`.
    pub tags: Vec<RawLabel>,
}

impl Divisible for Tagged {}

/// A valid record, or the line and reason of an invalid one.
pub(super) type Parsed<R = Record> = std::result::Result<R, (usize, String)>;

/// Decodes a line; the error message names the first byte that is not valid UTF-8.
pub(super) fn utf8(line: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(line).map_err(|e| {
        format!("byte {} of the record is not valid UTF-8; convert the file to UTF-8", e.valid_up_to() + 1)
    })
}

/// The records of files.
#[derive(Debug)]
pub struct Records<R = Record> {
    /// The valid records in the order of the files; never empty.
    pub records: Vec<R>,
    /// Line and reason of each skipped record; empty with [`OnBad::Error`].
    pub skipped: Vec<(usize, String)>,
    /// Line of a CSV or TSV file's first row, if it was read as a record only because it has no expected column name.
    pub guessed: Option<usize>,
    /// Remarks for the user on how the files were read, in short phrases.
    pub remarks: Vec<String>,
    /// BLAKE3 of the bytes of each file.
    pub hashes: Vec<[u8; 32]>,
    /// The classes that each file names.
    pub(super) classes: Vec<Arc<ClassLabels>>,
}

impl<R> Records<R> {
    /// Adds a record, valid or not.
    pub(super) fn push(&mut self, record: Parsed<R>) {
        match record {
            Ok(record) => self.records.push(record),
            Err(bad) => self.skipped.push(bad),
        }
    }

    /// Returns other records in place of these.
    pub(super) fn map<T>(self, record: impl FnMut(R) -> T) -> Records<T> {
        let Records { records, skipped, guessed, remarks, hashes, classes } = self;
        Records { records: records.into_iter().map(record).collect(), skipped, guessed, remarks, hashes, classes }
    }

    /// Returns the names of the classes of a column by their numbers, for each file that names them.
    pub fn class_names(&self, column: &str) -> Vec<Option<&[String]>> {
        self.classes.iter().map(|file| file.names(column)).collect()
    }
}
