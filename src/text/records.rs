//! Reads records of text and label from JSONL, CSV and TSV files.
//!
//! Messages name settings without a prefix (`label_column`): in a configuration they are under `[data]`, on the command
//! line they are options (`--label-column`).
//!
//! Every record keeps its line number for messages. A byte order mark and CRLF are accepted; invalid UTF-8 is an error.

use super::{gzip, jsonl, table};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

pub use super::record::{Fields, Format, OnBad, RawLabel, Record, Source};
pub(super) use super::record::{Parsed, lines, quoted, utf8};

/// Maximum number of reasons for invalid records in one message.
const LISTED: usize = 10;
/// Maximum number of line numbers per reason.
const LINES: usize = 3;

/// The records of a file.
#[derive(Debug)]
pub struct Records<R = Record> {
    /// The valid records in file order; never empty.
    pub records: Vec<R>,
    /// Line and reason of each skipped record; empty with [`OnBad::Error`].
    pub skipped: Vec<(usize, String)>,
    /// Line of a CSV or TSV file's first row, if it was read as a record only because it has no expected column name.
    pub guessed: Option<usize>,
    /// BLAKE3 of the file's bytes.
    pub bytes_hash: [u8; 32],
}

/// Reads a file of records.
///
/// # Errors
/// Input errors (exit 2): an unreadable file; an unknown extension without a format; a header without the requested
/// columns; a JSON array; invalid records with [`OnBad::Error`], with up to ten reasons; no valid record.
pub fn read(source: &Source) -> Result<Records> {
    let path = &source.path;
    let format = format_of(source)?;
    let file = File::open(path)?;
    let content = file.content();
    let (parsed, guessed) = match format {
        Format::Jsonl => (jsonl::parse(file.json_lines()?, &source.fields), None),
        Format::Csv => table::parse_csv(content, source)?,
        Format::Tsv => table::parse_tsv(content, source)?,
    };
    let read = file.collect(parsed, source.on_bad_record, source.fields.label.is_some())?;
    Ok(Records { guessed, ..read })
}

/// A file in memory.
pub(super) struct File<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    hash: [u8; 32],
}

impl<'a> File<'a> {
    /// Reads a file and decompresses gzip. An unreadable file or UTF-16 is an input error.
    pub fn open(path: &'a Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
        let hash = *blake3::hash(&bytes).as_bytes();
        Error::refuse_lfs_pointer(path, &bytes)?;
        let bytes = gzip::decompress(path, bytes)?;
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(Error::input(format!("{}: the file is UTF-16; convert it to UTF-8", path.display())));
        }
        Ok(File { path, bytes, hash })
    }

    /// Returns the content without a byte order mark.
    pub fn content(&self) -> &[u8] {
        self.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.bytes)
    }

    /// Returns the content of a JSONL file. A JSON array is an input error.
    pub fn json_lines(&self) -> Result<&[u8]> {
        let why = "a JSON array, expected one object per line (convert it with `jq -c '.[]'`)";
        match self.content().trim_ascii_start().starts_with(b"[") {
            true => Err(Error::input(format!("{}: {why}", self.path.display()))),
            false => Ok(self.content()),
        }
    }

    /// Returns the hash of the file's bytes, before decompression, as [`hash_file`] does.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Collects the valid records; fails as [`check_bad`] does.
    pub fn collect<R>(&self, parsed: Vec<Parsed<R>>, on_bad: OnBad, labelled: bool) -> Result<Records<R>> {
        let mut records = Vec::with_capacity(parsed.len());
        let mut skipped = Vec::new();
        for record in parsed {
            match record {
                Ok(record) => records.push(record),
                Err(bad) => skipped.push(bad),
            }
        }
        check_bad(self.path, on_bad, labelled, records.len(), &skipped)?;
        Ok(Records { records, skipped, guessed: None, bytes_hash: self.hash() })
    }
}

/// Returns the BLAKE3 hash of a file's bytes, equal to [`Records::bytes_hash`], without parsing records.
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

/// Checks the `bad` records (line, reason) of a file that also has `good` valid ones.
///
/// # Errors
/// Invalid records with [`OnBad::Error`]; no valid record.
pub fn check_bad(path: &Path, on_bad: OnBad, labelled: bool, good: usize, bad: &[(usize, String)]) -> Result<()> {
    // Prediction needs one output per record, so invalid records cannot be skipped there.
    let advice = match labelled {
        true => "correct the file, or skip invalid records with on_bad_record = \"skip\"",
        false => "correct the file",
    };
    let reasons = || reasons(path, good + bad.len(), bad);
    let path = path.display();
    match (good, bad.len(), on_bad) {
        (0, 0, _) => Err(Error::input(format!("{path}: the data set is empty: the file contains no record"))),
        // If no record is valid, the settings are wrong, and the reasons say how to correct them.
        (0, ..) => Err(Error::input(reasons())),
        (_, 1.., OnBad::Error) => Err(Error::input(format!("{}\n{advice}", reasons()))),
        _ => Ok(()),
    }
}

/// Formats one line per distinct reason, in order of first occurrence.
fn reasons(path: &Path, all: usize, bad: &[(usize, String)]) -> String {
    let mut order: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut places = HashMap::new();
    for (line, why) in bad {
        let place = *places.entry(why.as_str()).or_insert(order.len());
        if place == order.len() {
            order.push((why, Vec::new()));
        }
        order[place].1.push(*line);
    }
    let path = path.display();
    let shown = order.iter().take(LISTED).map(|(why, lines)| match lines.as_slice() {
        [line] => format!("{path}:{line}: {why}"),
        [line, ..] => {
            let first: Vec<String> = lines.iter().take(LINES).map(usize::to_string).collect();
            let first = format!("{}{}", first.join(", "), if lines.len() > LINES { ", ..." } else { "" });
            format!("{path}:{line}: {why} ({} of {all} records: lines {first})", lines.len())
        }
        [] => String::new(),
    });
    let mut shown: Vec<String> = shown.collect();
    let more: usize = order.iter().skip(LISTED).map(|(_, lines)| lines.len()).sum();
    if more > 0 {
        shown.push(format!("... and {more} more invalid records"));
    }
    shown.join("\n")
}

/// Returns the format of a source: `source.format`, else from the extension.
///
/// # Errors
/// No format and an unknown extension (exit 2).
pub fn format_of(source: &Source) -> Result<Format> {
    match (source.format, gzip::extension(&source.path).as_str()) {
        (Some(format), _) => Ok(format),
        (None, "jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        (None, "csv") => Ok(Format::Csv),
        (None, "tsv" | "tab") => Ok(Format::Tsv),
        _ => Err(Error::input(format!(
            "{}: unknown file extension; rename the file to .jsonl, .csv or .tsv, or set format",
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
        (0..13).for_each(|i| content.push_str(&format!("{{\"sentence{i}\": \"bad\"}}\n")));
        let mut source = source(&dir, "a.jsonl", content.as_bytes());
        let error = read(&source).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(message.starts_with(&format!("{}:2: no column \"text\"", source.path.display())), "{message}");
        assert!(message.contains(":11: ") && !message.contains(":12: "), "{message}");
        assert!(message.contains("and 3 more") && message.contains("on_bad_record"), "{message}");
        let prediction = Source { fields: Fields { label: None, ..Fields::default() }, ..source.clone() };
        let message = read(&prediction).unwrap_err().to_string();
        assert!(message.ends_with("\ncorrect the file"), "prediction cannot skip records: {message}");

        source.on_bad_record = OnBad::Skip;
        let records = read(&source).unwrap();
        assert_eq!((records.records.len(), records.skipped.len(), records.skipped[0].0), (1, 13, 2));
        assert_eq!(records.bytes_hash, hash_file(&source.path).unwrap());
    }

    #[test]
    fn an_error_repeated_in_many_records_is_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let content = "{\"sentence\": \"bad\"}\n".repeat(100);
        for on_bad_record in [OnBad::Error, OnBad::Skip] {
            let source = Source { on_bad_record, ..source(&dir, "a.jsonl", content.as_bytes()) };
            let message = read(&source).unwrap_err().to_string();
            let expected = "no column \"text\"; the record has \"sentence\": set text_column \
                            (100 of 100 records: lines 1, 2, 3, ...)";
            assert_eq!(
                message,
                format!("{}:1: {expected}", source.path.display()),
                "without advice to skip all records"
            );
        }
        let content = "{}\n{\"text\": \"a\", \"label\": 1}\n{}\n[]\n";
        let message = read(&source(&dir, "b.jsonl", content.as_bytes())).unwrap_err().to_string();
        assert!(message.contains("b.jsonl:1: no column \"text\": the record is empty (2 of 4 records: lines 1, 3)\n"));
        assert!(message.contains("b.jsonl:4: a record must be a JSON object, found an array\n"), "{message}");
    }

    #[test]
    fn a_json_array_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for content in ["[{\"text\": \"a\", \"label\": 1}]", "\n[\n  {\n    \"text\": \"a\"\n  }\n]\n"] {
            let message = read(&source(&dir, "a.json", content.as_bytes())).unwrap_err().to_string();
            assert!(message.contains("a.json: a JSON array, expected one object per line"), "{message}");
        }
    }

    #[test]
    fn files_without_records_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("a.jsonl", "\n\r\n"), ("a.csv", ""), ("a.tsv", "text\tlabel\n")] {
            let message = read(&source(&dir, name, content.as_bytes())).unwrap_err().to_string();
            assert!(message.contains("empty"), "{name}: {message}");
        }
    }

    #[test]
    fn unreadable_files_are_errors_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Source { path: dir.path().join("none.csv"), ..source(&dir, "a.csv", b"") };
        assert!(read(&missing).unwrap_err().to_string().ends_with("none.csv: no such file"));
        let message = |name, content: &[u8]| read(&source(&dir, name, content)).unwrap_err().to_string();
        assert!(message("a.parquet", b"x").contains("set format"));
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
