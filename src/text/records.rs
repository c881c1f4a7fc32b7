//! Records of text and label from JSONL, CSV and TSV files.
//!
//! Every record keeps the line on which it starts, so that any later complaint can name it. A byte order mark
//! and CRLF line ends are tolerated; text that is not UTF-8 is not.

use super::{jsonl, table};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// How many bad records one message lists.
const LISTED: usize = 10;

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
    /// and, where a label is wanted, the label column's.
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
}

impl Default for Fields {
    fn default() -> Self {
        Fields { text: "text".into(), text_pair: None, label: Some("label".into()) }
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawLabel(String);

impl RawLabel {
    /// The label, or a complaint if it is empty.
    pub(super) fn new(label: impl Into<String>, column: &str) -> Result<Self, String> {
        let label = label.into();
        if label.is_empty() { Err(format!("the label (column {column:?}) is empty")) } else { Ok(RawLabel(label)) }
    }

    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.0
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
    /// The label; always there when the source asks for one.
    pub label: Option<RawLabel>,
}

/// A record, or the line and reason of a bad one.
pub(super) type Parsed = std::result::Result<Record, (usize, String)>;

/// The records of a file.
#[derive(Debug)]
pub struct Records {
    /// The good records in the file's order; never empty.
    pub records: Vec<Record>,
    /// Line and reason of each record left out; empty with [`OnBad::Error`].
    pub skipped: Vec<(usize, String)>,
    /// BLAKE3 of the file's bytes.
    pub bytes_hash: [u8; 32],
}

/// Reads a file of records.
///
/// # Errors
/// Input errors (exit 2): a missing or unreadable file; an unknown extension without a format; a header
/// without the wanted columns; bad records with [`OnBad::Error`], up to ten of them listed with file and line;
/// no good record at all.
pub fn read(source: &Source) -> Result<Records> {
    let path = &source.path;
    let format = format_of(source)?;
    let bytes = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
    let bytes_hash = *blake3::hash(&bytes).as_bytes();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::input(format!("{}: the file is UTF-16; convert it to UTF-8", path.display())));
    }
    let content = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let parsed = match format {
        Format::Jsonl => jsonl::parse(content, &source.fields),
        Format::Csv => table::parse_csv(content, source)?,
        Format::Tsv => table::parse_tsv(content, source)?,
    };
    let mut records = Vec::with_capacity(parsed.len());
    let mut skipped = Vec::new();
    for record in parsed {
        match record {
            Ok(record) => records.push(record),
            Err(bad) => skipped.push(bad),
        }
    }
    settle_bad(source, records.len(), &skipped)?;
    Ok(Records { records, skipped, bytes_hash })
}

/// BLAKE3 of a file's bytes, the same as [`Records::bytes_hash`], without reading records.
///
/// # Errors
/// As [`read`] for a file that cannot be read.
pub fn hash_file(path: &Path) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    std::fs::File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .map_err(|e| unreadable(path, &e))?;
    Ok(*hasher.finalize().as_bytes())
}

/// Decides what `bad` records (line, reason) of a file with `good` good ones mean.
///
/// # Errors
/// Bad records with [`OnBad::Error`]; no good record.
pub fn settle_bad(source: &Source, good: usize, bad: &[(usize, String)]) -> Result<()> {
    let path = source.path.display();
    let list = || {
        let mut lines: Vec<String> = bad.iter().take(LISTED).map(|(n, why)| format!("{path}:{n}: {why}")).collect();
        if bad.len() > LISTED {
            lines.push(format!("... and {} more bad records", bad.len() - LISTED));
        }
        lines.join("\n")
    };
    match (good, bad.len(), source.on_bad_record) {
        (0, 0, _) => Err(Error::input(format!("{path}: the data set is empty: the file holds no record"))),
        (0, n, OnBad::Skip) => {
            Err(Error::input(format!("{}\n{path}: the data set is empty: all {n} records are bad", list())))
        }
        (_, 1.., OnBad::Error) => Err(Error::input(format!(
            "{}\ncorrect the file, or leave bad records out with data.on_bad_record = \"skip\"",
            list()
        ))),
        _ => Ok(()),
    }
}

/// The format of a source: the given one, else by the file's extension.
///
/// # Errors
/// Neither is there (exit 2).
pub fn format_of(source: &Source) -> Result<Format> {
    let extension = source.path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match (source.format, extension.as_str()) {
        (Some(format), _) => Ok(format),
        (None, "jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        (None, "csv") => Ok(Format::Csv),
        (None, "tsv" | "tab") => Ok(Format::Tsv),
        _ => Err(Error::input(format!(
            "{}: the name does not tell the format; rename it to .jsonl, .csv or .tsv, or set data.format",
            source.path.display()
        ))),
    }
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    let why = match e.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_string(),
        _ => e.to_string(),
    };
    Error::input(format!("{}: {why}", path.display()))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn source(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> Source {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let fields = Fields::default();
        Source { path, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error }
    }

    #[test]
    fn bad_records_are_listed_or_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = String::from("{\"text\": \"good\", \"label\": 1}\n");
        (0..13).for_each(|_| content.push_str("{\"sentence\": \"bad\"}\n"));
        let mut source = source(&dir, "a.jsonl", content.as_bytes());
        let error = read(&source).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(message.starts_with(&format!("{}:2: no column \"text\"", source.path.display())), "{message}");
        assert!(message.contains(":11: ") && !message.contains(":12: "), "{message}");
        assert!(message.contains("and 3 more") && message.contains("on_bad_record"), "{message}");

        source.on_bad_record = OnBad::Skip;
        let records = read(&source).unwrap();
        assert_eq!((records.records.len(), records.skipped.len(), records.skipped[0].0), (1, 13, 2));
        assert_eq!(records.bytes_hash, hash_file(&source.path).unwrap());
    }

    #[test]
    fn files_without_records_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("a.jsonl", "\n\r\n"), ("a.csv", ""), ("a.tsv", "text\tlabel\n")] {
            let message = read(&source(&dir, name, content.as_bytes())).unwrap_err().to_string();
            assert!(message.contains("empty"), "{name}: {message}");
        }
        let bad = Source { on_bad_record: OnBad::Skip, ..source(&dir, "b.jsonl", b"{}\n[]\n") };
        assert!(read(&bad).unwrap_err().to_string().contains("all 2 records are bad"));
    }

    #[test]
    fn files_that_cannot_be_read_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Source { path: dir.path().join("none.csv"), ..source(&dir, "a.csv", b"") };
        assert!(read(&missing).unwrap_err().to_string().ends_with("none.csv: no such file"));
        let message = |name, content: &[u8]| read(&source(&dir, name, content)).unwrap_err().to_string();
        assert!(message("a.parquet", b"x").contains("data.format"));
        assert!(message("a.tsv", b"\xff\xfea\0").contains("UTF-16"));
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let csv = read(&source(&dir, "a.csv", b"\xef\xbb\xbftext,label\r\nhello,1\r\n")).unwrap();
        assert_eq!((csv.records.len(), csv.records[0].line), (1, 2));
        let jsonl = read(&source(&dir, "a.jsonl", b"\xef\xbb\xbf{\"text\": \"hello\", \"label\": 1}")).unwrap();
        assert_eq!((jsonl.records[0].text.as_str(), jsonl.records[0].line), ("hello", 1));
    }
}
