//! A record of text and label, and the settings of reading it.

use std::path::PathBuf;

/// A file of records and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// `None`: by the file's extension (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.tab`).
    pub format: Option<Format>,
    /// The names of the columns of a CSV or TSV file without a header. `None`: text, text_pair (where asked
    /// for), label, in this order, by the names in `fields`.
    pub columns: Option<Vec<String>>,
    /// Whether a CSV or TSV file's first row is a header. `None`: it is one if it holds the text column's name
    /// and, where a label is wanted, the label column's, in capitals or small letters.
    pub header: Option<bool>,
    /// Which columns are wanted.
    pub fields: Fields,
    /// What a bad record does.
    pub on_bad_record: OnBad,
}

/// The layout of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line; blank lines are skipped.
    Jsonl,
    /// Comma-separated with double quotes (RFC 4180); a quoted field may span lines.
    Csv,
    /// Tab-separated without any quoting, as GLUE's files are: a quote is a character like any other.
    Tsv,
}

/// The names of the wanted columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// The text.
    pub text: String,
    /// The second text. `None`: a column `text_pair` where there is one.
    pub text_pair: Option<String>,
    /// The label. `None`: not needed, as for prediction.
    pub label: Option<String>,
    /// Whether that column has any number of labels: a list in JSONL, names with commas between in CSV and TSV.
    pub many_labels: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Fields { text: "text".into(), text_pair: None, label: Some("label".into()), many_labels: false }
    }
}

/// What a bad record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    /// Reading ends with an error that lists the bad records.
    Error,
    /// The record is left out, and counted with its reason.
    Skip,
}

/// A label as a person would write it: `pos`, `1`, `1.0`, `true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLabel {
    text: String,
    padded: bool,
}

impl RawLabel {
    /// The label without spaces around it, or a complaint if nothing else is there.
    pub fn new(label: impl Into<String>, column: &str) -> Result<Self, String> {
        let label = label.into();
        let text = label.trim();
        match text.is_empty() {
            true => Err(format!("the label (column {column:?}) is empty")),
            false => Ok(RawLabel { padded: text.len() < label.len(), text: text.to_owned() }),
        }
    }

    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether spaces stand around it in the file.
    pub fn is_padded(&self) -> bool {
        self.padded
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The line on which the record starts, from 1.
    pub line: usize,
    /// The text, possibly empty.
    pub text: String,
    /// The second text.
    pub text_pair: Option<String>,
    /// The label; one when the source asks for one, and any number when it asks for many.
    pub labels: Vec<RawLabel>,
}

/// One sentence of tagged words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// The line on which it starts, from 1.
    pub line: usize,
    /// Its words; at least one, and none is empty.
    pub words: Vec<String>,
    /// A tag for each word; none where the source asks for none.
    pub tags: Vec<RawLabel>,
}

/// A record, or the line and reason of a bad one.
pub(super) type Parsed<R = Record> = std::result::Result<R, (usize, String)>;

/// A line's text, or a complaint that says which byte of it is not UTF-8.
pub(super) fn utf8(line: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(line)
        .map_err(|e| format!("byte {} of the record is not UTF-8; convert the file to UTF-8", e.valid_up_to() + 1))
}

/// Lines with their numbers from 1, without their ends (LF or CRLF).
pub(super) fn lines(content: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = content.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    (1..).zip(lines)
}

/// Names as a message shows them: `"text", "label"`.
pub(super) fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|n| format!("{:?}", n.as_ref())).collect::<Vec<_>>().join(", ")
}
