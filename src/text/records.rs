//! Reads records of text and label from JSON, CSV, TSV, Parquet and Arrow files.
//!
//! Messages name settings without a prefix (`label_column`): in a configuration they are under `[data]`, on the command
//! line they are options (`--label-column`).
//!
//! Every record keeps its line number for messages. A byte order mark and CRLF are accepted; invalid UTF-8 is an error.

use super::class_labels::ClassLabels;
use super::files::{Files, split};
use super::input::{Input, extension, unreadable};
use super::part::Divisible;
use super::{columnar, jsonl, one_object, table, table_objects};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub(super) use super::class_labels::ClassValues;
pub(super) use super::files::quoted;
pub(super) use super::record::utf8;
pub use super::record::{Fields, Format, OnBad, RawLabel, Record, Records, Source};

/// Maximum number of reasons for invalid records in one message.
const LISTED: usize = 10;
/// Maximum number of line numbers per reason.
const LINES: usize = 3;

/// Reads files of records.
///
/// # Errors
/// Input errors (exit 2): an unreadable file; an unknown extension without a format; a header without the requested
/// columns, or with one twice; invalid records with [`OnBad::Error`], with up to ten reasons; no valid record.
pub fn read(source: &Source) -> Result<Records> {
    let labelled = source.fields.label.is_some();
    let classes = if source.fields.numeric { ClassValues::Numbers } else { ClassValues::Names };
    gather(&source.files, source.on_bad_record, labelled, |input, into| match format_of(input.path(), source.format)? {
        format @ (Format::Csv | Format::Tsv) => table::read(input, source, format, into),
        format => objects_as(input, (format, classes), |line, map| jsonl::record(line, map, &source.fields), into),
    })
}

/// Reads files one after another with `parse`, which adds the records of each, and keeps those of the part to read.
/// Invalid records are reported with the part that is trained on.
///
/// # Errors
/// As [`check_bad`] and, of a file with invalid records that is not one record, [`one_object::refuse`]; a part without
/// records.
pub(super) fn gather<R: Divisible>(
    files: &Files,
    on_bad: OnBad,
    labelled: bool,
    mut parse: impl FnMut(&mut Input, &mut Records<R>) -> Result<()>,
) -> Result<Records<R>> {
    let (skipped, remarks, hashes) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = Records { records: Vec::new(), skipped, guessed: None, remarks, hashes, classes: Vec::new() };
    for (path, number) in files.paths().iter().zip(0..) {
        let mut input = Input::of(files, number)?;
        let before = (all.records.len(), all.skipped.len(), all.remarks.len());
        let parsed = parse(&mut input, &mut all);
        let found = (all.records.len() - before.0, all.skipped.len() - before.1);
        match (&parsed, found, all.skipped.last_mut()) {
            (Ok(()), (_, 0), _) => {}
            // It may be a record with a list inside.
            (Ok(()), (0, 1), Some((_, why))) => {
                *why += &one_object::hint(path);
            }
            _ => one_object::refuse(path)?,
        }
        parsed?;
        // Other formats name no classes.
        all.classes.resize_with(number + 1, Arc::default);
        let hash = input.hash()?;
        all.hashes.push(hash);
        if files.paths().len() > 1 {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            all.remarks[before.2..].iter_mut().for_each(|remark| *remark = format!("{name}: {remark}"));
            if found == (0, 0) {
                all.remarks.push(format!("{name} is empty"));
            }
        }
    }
    check_bad(files, on_bad, labelled, all.records.len(), &all.skipped)?;
    if let Some(part) = files.part() {
        all.records = part.select(all.records).map_err(|why| Error::input(format!("{files}: {why}")))?;
        if part.is_held_out() {
            all.skipped.clear();
        }
    }
    Ok(all)
}

/// Reads records that are objects with named values: in any format but plain text.
pub(super) fn of_objects<R: Divisible>(
    files: &Files,
    (format, on_bad, labelled): (Option<Format>, OnBad, bool),
    classes: ClassValues,
    mut record: impl FnMut(usize, Map<String, Value>) -> Result<R, String>,
) -> Result<Records<R>> {
    gather(files, on_bad, labelled, |input, into| {
        // Any other extension is JSON.
        let format = format_of(input.path(), format).unwrap_or(Format::Jsonl);
        objects_as(input, (format, classes), &mut record, into)
    })
}

/// Adds the records of a file whose records are objects, with the names of classes.
pub(super) fn objects<R>(
    input: &mut Input,
    format: Format,
    record: impl FnMut(usize, Map<String, Value>) -> Result<R, String>,
    into: &mut Records<R>,
) -> Result<()> {
    objects_as(input, (format, ClassValues::Names), record, into)
}

fn objects_as<R>(
    input: &mut Input,
    format: (Format, ClassValues),
    mut record: impl FnMut(usize, Map<String, Value>) -> Result<R, String>,
    into: &mut Records<R>,
) -> Result<()> {
    let mut remarks = Vec::new();
    let each =
        |line, map: Result<_, String>| into.push(map.and_then(|map| record(line, map)).map_err(|why| (line, why)));
    let classes = each_object(input, format, each, &mut remarks)?;
    into.remarks.append(&mut remarks);
    into.classes.push(classes);
    Ok(())
}

/// Calls `each` with the line of every record and its object, or what is wrong with it. Returns the classes that the
/// file names.
///
/// # Errors
/// A file that cannot be read, or is not of the format.
pub(super) fn each_object(
    input: &mut Input,
    (format, classes): (Format, ClassValues),
    each: impl FnMut(usize, Result<Map<String, Value>, String>),
    remarks: &mut Vec<String>,
) -> Result<Arc<ClassLabels>> {
    match format {
        Format::Jsonl => jsonl::objects(input, each)?,
        Format::Csv | Format::Tsv => table_objects::objects(input, format, each, remarks)?,
        Format::Parquet | Format::Arrow => return columnar::objects(input, format, classes, each),
    }
    Ok(Arc::default())
}

/// Returns the BLAKE3 hash of a file's bytes, as in [`Records::hashes`], without parsing records.
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

/// Checks the `bad` records (line, reason) of files that also have `good` valid ones.
///
/// # Errors
/// Invalid records with [`OnBad::Error`]; no valid record.
pub fn check_bad(files: &Files, on_bad: OnBad, labelled: bool, good: usize, bad: &[(usize, String)]) -> Result<()> {
    // Prediction needs one output per record, so invalid records cannot be skipped there.
    let advice = match labelled {
        true => "correct the file, or skip invalid records with on_bad_record = \"skip\"",
        false => "correct the file",
    };
    let reasons = || reasons(files, good + bad.len(), bad);
    match (good, bad.len(), on_bad) {
        (0, 0, _) | (0, _, OnBad::Skip) if files.are_pieces() => Ok(()),
        (0, 0, _) => Err(Error::input(format!("{files}: the data set is empty: the file contains no record"))),
        // If no record is valid, the settings are wrong, and the reasons say how to correct them.
        (0, ..) => Err(Error::input(reasons())),
        (_, 1.., OnBad::Error) => Err(Error::input(format!("{}\n{advice}", reasons()))),
        _ => Ok(()),
    }
}

/// Formats one line per distinct reason, in order of first occurrence.
fn reasons(files: &Files, all: usize, bad: &[(usize, String)]) -> String {
    let mut order: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut places = HashMap::new();
    for (line, why) in bad {
        let place = *places.entry(why.as_str()).or_insert(order.len());
        if place == order.len() {
            order.push((why, Vec::new()));
        }
        order[place].1.push(*line);
    }
    let shown = order.iter().take(LISTED).map(|(why, lines)| match lines.as_slice() {
        [line] => format!("{}: {why}", files.place(*line)),
        [line, ..] => {
            // Lines of the file that is named.
            let own = lines.iter().filter(|other| split(**other).0 == split(*line).0).take(LINES);
            let own: Vec<String> = own.map(|line| split(*line).1.to_string()).collect();
            let more = if lines.len() > own.len() { ", ..." } else { "" };
            format!("{}: {why} ({} of {all} records: lines {}{more})", files.place(*line), lines.len(), own.join(", "))
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

/// Returns the format of a file: the `given` one, else from the extension.
///
/// # Errors
/// No format and an unknown extension (exit 2).
pub fn format_of(path: &Path, given: Option<Format>) -> Result<Format> {
    match (given, extension(path).as_str()) {
        (Some(format), _) => Ok(format),
        (None, "jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        (None, "csv") => Ok(Format::Csv),
        (None, "tsv" | "tab") => Ok(Format::Tsv),
        (None, "parquet") => Ok(Format::Parquet),
        (None, "arrow" | "feather" | "ipc") => Ok(Format::Arrow),
        _ => Err(Error::input(format!(
            "{}: unknown file extension; rename the file to what it is, such as .jsonl, .csv, .tsv or .parquet, or set \
             format",
            path.display()
        ))),
    }
}

/// Returns the format of each file, an unknown one as `None`: a part of the cache key.
pub fn formats(files: &Files, given: Option<Format>) -> Vec<Option<Format>> {
    files.paths().iter().map(|path| format_of(path, given).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn source(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> Source {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let (files, fields) = (path.into(), Fields::default());
        Source { files, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error }
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
        assert!(message.starts_with(&format!("{}:2: no column \"text\"", source.files)), "{message}");
        assert!(message.contains(":11: ") && !message.contains(":12: "), "{message}");
        assert!(message.contains("and 3 more") && message.contains("on_bad_record"), "{message}");
        let prediction = Source { fields: Fields { label: None, ..Fields::default() }, ..source.clone() };
        let message = read(&prediction).unwrap_err().to_string();
        assert!(message.ends_with("\ncorrect the file"), "prediction cannot skip records: {message}");

        source.on_bad_record = OnBad::Skip;
        let records = read(&source).unwrap();
        assert_eq!((records.records.len(), records.skipped.len(), records.skipped[0].0), (1, 13, 2));
        assert_eq!(records.hashes, [hash_file(&source.files.paths()[0]).unwrap()]);
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
            assert_eq!(message, format!("{}:1: {expected}", source.files), "without advice to skip all records");
        }
        let content = "{}\n{\"text\": \"a\", \"label\": 1}\n{}\n[]\n";
        let message = read(&source(&dir, "b.jsonl", content.as_bytes())).unwrap_err().to_string();
        assert!(message.contains("b.jsonl:1: no column \"text\": the record is empty (2 of 4 records: lines 1, 3)\n"));
        assert!(message.contains("b.jsonl:4: a record must be a JSON object, found an array\n"), "{message}");
    }

    #[test]
    fn a_json_array_is_a_list_of_records() {
        let dir = tempfile::tempdir().unwrap();
        let content = "[\n{\"text\": \"a\", \"label\": 1},\n{\"text\": \"b\", \"label\": 2, \"label\": 3}]";
        for name in ["a.json", "a.jsonl"] {
            let source = Source { on_bad_record: OnBad::Skip, ..source(&dir, name, content.as_bytes()) };
            let read = read(&source).unwrap();
            assert_eq!((read.records[0].line, read.records[0].text.as_str()), (2, "a"));
            assert_eq!(read.skipped, [(3, "the key \"label\" is there twice: keep one of them".to_owned())]);
        }
    }

    #[test]
    fn several_files_are_read_in_order_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let content = |text: &str| format!("{{\"text\": {text:?}, \"label\": 1}}\n");
        source(&dir, "a.jsonl", (content("a") + "{}\n").as_bytes());
        source(&dir, "b.csv", b"text;label\nb;1\n;\n");
        source(&dir, "c.tsv", b"");
        let files = Files::find(&["a.jsonl", "b.csv", "c.tsv"].map(|name| dir.path().join(name))).unwrap();
        let mut source = Source { files, ..source(&dir, "d.jsonl", content("d").as_bytes()) };
        let message = read(&source).unwrap_err().to_string();
        let expected = [
            "/a.jsonl:2: no column \"text\": the record is empty\n",
            "/b.csv:3: the label (column \"label\") is empty\n",
        ];
        assert!(expected.iter().all(|says| message.contains(says)), "{message}");
        source.on_bad_record = OnBad::Skip;
        let all = read(&source).unwrap();
        assert_eq!(all.records.iter().map(|record| record.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(source.files.line(all.skipped[1].0), format!("{}:3", dir.path().join("b.csv").display()));
        assert_eq!(all.remarks, ["b.csv: separated by semicolons", "c.tsv is empty"]);
        assert_eq!(all.hashes.len(), 3);
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
        let missing = Source { files: dir.path().join("none.csv").into(), ..source(&dir, "a.csv", b"") };
        assert!(read(&missing).unwrap_err().to_string().ends_with("none.csv: no such file"));
        let message = |name, content: &[u8]| read(&source(&dir, name, content)).unwrap_err().to_string();
        assert!(message("a.xyz", b"x").contains("set format"));
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
