//! Reads token classification data (words with tags) from CoNLL and JSONL files.

use super::files::Files;
use super::input::{Input, extension};
pub use super::record::Tagged;
use super::records::{self, Format, OnBad, Records, utf8};
use super::{conll, jsonl};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Files of sentences, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedSource {
    pub files: Files,
    /// `None`: by the extension (`.jsonl`, `.ndjson`, `.json`; `.parquet`, `.arrow`, `.feather`, `.ipc`; `.conll`, `.bio`,
    /// `.iob`, `.tsv`, `.txt`).
    pub format: Option<TaggedFormat>,
    /// The column with the list of words.
    pub words: String,
    /// The column with the list of tags. `None`: no tags are read in any format, as for prediction.
    pub tags: Option<String>,
    pub on_bad_record: OnBad,
}

/// A file format for sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaggedFormat {
    /// One word per line: the first column is the word, the last one the tag, separated by tabs or spaces. Blank lines
    /// separate sentences; `-DOCSTART-` lines are skipped.
    Conll,
    /// Records with a list of words and a list of tags of the same length.
    Records(Format),
    /// One sentence per line, words separated by spaces; without tags.
    Sentences,
}

/// Reads a file of sentences.
///
/// # Errors
/// Input errors (exit 2), as [`records::read`]: a file that cannot be read, or with an unknown
/// extension; invalid records with [`OnBad::Error`], such as a word without a tag, listed with file and lines; no valid
/// record.
pub fn read(source: &TaggedSource) -> Result<Records<Tagged>> {
    let labelled = source.tags.is_some();
    records::gather(&source.files, source.on_bad_record, labelled, |input, into| match file_format(input, source)? {
        TaggedFormat::Sentences if labelled => {
            let why = "plain text has no tags; use CoNLL or JSONL";
            Err(Error::input(format!("{}: {why}", input.path().display())))
        }
        TaggedFormat::Sentences => sentences(input, into),
        TaggedFormat::Conll => conll::read(input, labelled, into),
        TaggedFormat::Records(format) => records::objects(input, format, |line, map| record(line, &map, source), into),
    })
}

/// Returns the format of a file; without tags, `.txt` may be CoNLL or plain text.
fn file_format(input: &Input, source: &TaggedSource) -> Result<TaggedFormat> {
    let path = input.path();
    if source.format.is_none() && source.tags.is_none() && extension(path) == "txt" {
        let content = Input::open(path, 0)?.content()?;
        return detect_format(&content).map_err(|why| Error::input(format!("{}: {why}", path.display())));
    }
    format_of(path, source.format)
}

/// Reads the sentences of plain text; blank lines are skipped.
fn sentences(input: &mut Input, into: &mut Records<Tagged>) -> Result<()> {
    let base = input.number(0);
    while let Some((line, bytes)) = input.next_line()? {
        let line = base + line;
        let words = utf8(bytes).map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        if words.as_ref().is_ok_and(Vec::is_empty) {
            continue;
        }
        into.push(words.map(|words| Tagged { line, words, tags: Vec::new() }).map_err(|why| (line, why)));
    }
    Ok(())
}

/// Detects whether a `.txt` file read without tags is CoNLL (one word per line, blank lines between sentences) or plain
/// text. The error asks for the format if both are possible.
fn detect_format(content: &[u8]) -> Result<TaggedFormat, &'static str> {
    let rows = content.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|row| !row.starts_with(b"-DOCSTART-"));
    let rows: Vec<&[u8]> = rows.collect();
    let columns = |row: &[u8]| row.split(u8::is_ascii_whitespace).filter(|cell| !cell.is_empty()).count();
    let paragraphs: Vec<&[&[u8]]> = rows.split(|row| row.is_empty()).filter(|rows| !rows.is_empty()).collect();
    let counts: Vec<usize> = rows.iter().map(|row| columns(row)).filter(|&n| n > 0).collect();
    let (fewest, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    let long = paragraphs.iter().any(|rows| rows.len() > 1);
    // The last column of CoNLL: `O`, `B-x`.
    let is_tag = |row: &&[u8]| {
        let last = row.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
        last == b"O" || last.get(1) == Some(&b'-')
    };
    let tagged = rows.iter().filter(|row| !row.is_empty()).all(is_tag);
    match (fewest == most, long) {
        _ if most <= 1 => Ok(TaggedFormat::Conll),
        (true, true) if tagged => Ok(TaggedFormat::Conll),
        (true, true) => {
            Err("ambiguous format: one word and tag per line, or one sentence? set format to conll or text")
        }
        _ => Ok(TaggedFormat::Sentences),
    }
}

/// Returns the format of a file: the `given` one, else from the extension.
///
/// # Errors
/// No format and an unknown extension (exit 2).
pub fn format_of(path: &Path, given: Option<TaggedFormat>) -> Result<TaggedFormat> {
    match (given, extension(path).as_str()) {
        (Some(format), _) => Ok(format),
        (None, "jsonl" | "ndjson" | "json") => Ok(TaggedFormat::Records(Format::Jsonl)),
        (None, "parquet") => Ok(TaggedFormat::Records(Format::Parquet)),
        (None, "arrow" | "feather" | "ipc") => Ok(TaggedFormat::Records(Format::Arrow)),
        (None, "conll" | "bio" | "iob" | "tsv" | "txt") => Ok(TaggedFormat::Conll),
        _ => Err(Error::input(format!(
            "{}: unknown file extension; rename the file to .conll or .jsonl, or set format",
            path.display()
        ))),
    }
}

fn record(line: usize, map: &Map<String, Value>, source: &TaggedSource) -> Result<Tagged, String> {
    let words = jsonl::strings(list(map, &source.words, "words_column")?, "word")?;
    let Some(column) = &source.tags else { return Ok(Tagged { line, words, tags: Vec::new() }) };
    let tags = list(map, column, "tags_column")?;
    if tags.len() != words.len() {
        return Err(format!("{} words, but {} tags", words.len(), tags.len()));
    }
    let tags = (1..).zip(tags).map(|(n, tag)| jsonl::raw_label(tag, column, &format!("tag {n}")));
    Ok(Tagged { line, words, tags: tags.collect::<Result<_, _>>()? })
}

fn list<'a>(map: &'a Map<String, Value>, name: &str, key: &str) -> Result<&'a [Value], String> {
    let list = jsonl::list(map, name, key)?;
    if list.is_empty() { Err(format!("the list in column {name:?} is empty")) } else { Ok(list) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(dir: &tempfile::TempDir, name: &str, content: &str) -> TaggedSource {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let (words, tags) = ("words".into(), Some("tags".into()));
        TaggedSource { files: path.into(), format: None, words, tags, on_bad_record: OnBad::Error }
    }

    #[test]
    fn plain_text_and_conll_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let found = |text: &str| {
            let words = |read: Records<Tagged>| read.records.into_iter().map(|one| one.words).collect::<Vec<_>>();
            read(&TaggedSource { tags: None, ..source(&dir, "a.txt", text) }).map(words)
        };
        assert_eq!(found("John lives in Paris\n").unwrap(), [["John", "lives", "in", "Paris"]]);
        assert_eq!(found("John lives\n\nin Paris now\n").unwrap(), [vec!["John", "lives"], vec!["in", "Paris", "now"]]);
        assert_eq!(found("John\nlives\n\nin\n").unwrap(), [vec!["John", "lives"], vec!["in"]]);
        let conll = "-DOCSTART- O\n\nJohn B-x\nlives O\n\nin O\n";
        assert_eq!(found(conll).unwrap(), [vec!["John", "lives"], vec!["in"]]);
        assert_eq!(found("John B-x\nlives O\n").unwrap(), [["John", "lives"]]);
        let e = found("John lives\nMary sleeps\n\nBob eats\n").unwrap_err().to_string();
        assert!(e.contains("a.txt: ambiguous format") && e.contains("set format to conll or text"), "{e}");
        let text = TaggedSource { format: Some(TaggedFormat::Sentences), ..source(&dir, "a.conll", "a b\nc d\n") };
        assert!(read(&text).unwrap_err().to_string().contains("has no tags"));
        assert_eq!(read(&TaggedSource { tags: None, ..text }).unwrap().records[1].words, ["c", "d"]);
    }

    #[test]
    fn conll_and_jsonl_give_the_same_records() {
        let dir = tempfile::tempdir().unwrap();
        let conll = read(&source(&dir, "a.conll", "New B-x\nYork I-x\n\n7 O\n")).unwrap();
        let content = [r#"{"words": ["New", "York"], "tags": ["B-x", "I-x"]}"#, r#"{"words": ["7"], "tags": ["O"]}"#];
        let content = content.join("\n\n\n");
        let jsonl = read(&source(&dir, "a.jsonl", &content)).unwrap();
        assert_eq!(conll.records, jsonl.records);
        assert_eq!(conll.records[1].line, 4);
        assert_ne!(conll.hashes, jsonl.hashes);
    }

    #[test]
    fn errors_name_the_problem() {
        let dir = tempfile::tempdir().unwrap();
        for (line, expected) in [
            (r#"{"words": ["a", "b"], "tags": ["O"]}"#, "2 words, but 1 tags"),
            (
                r#"{"words": ["a"], "labels": ["O"]}"#,
                r#"no column "tags"; the record has "words", "labels": set tags_column"#,
            ),
            (r#"{"words": "a b", "tags": ["O"]}"#, r#"column "words" is a string; it must be a list"#),
            (r#"{"words": [], "tags": []}"#, r#"the list in column "words" is empty"#),
            (r#"{"words": ["a", ""], "tags": ["O", "O"]}"#, "word 2 is empty"),
            (r#"{"words": ["a", 2], "tags": ["O", "O"]}"#, "word 2 is a number"),
            (r#"{"words": ["a"], "tags": [null]}"#, "tag 1 is missing (null or"),
            (r#"{"words": ["a"], "tags": [""]}"#, "is empty"),
        ] {
            let content = format!("{{\"words\": [\"a\"], \"tags\": [3]}}\n{line}\n");
            let source = source(&dir, "a.jsonl", &content);
            let message = read(&source).unwrap_err().to_string();
            let place = format!("{}:2: ", source.files);
            assert!(message.starts_with(&place) && message.contains(expected), "{line}: {message}");
            let read = read(&TaggedSource { on_bad_record: OnBad::Skip, ..source }).unwrap();
            assert_eq!((read.records[0].tags[0].as_str(), read.skipped.len()), ("3", 1));
        }
    }

    #[test]
    fn a_missing_tag_is_an_error_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir, "a.conll", "a O\n\nb B-x\nc\n");
        let message = read(&source).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}:4: the word \"c\" has no tag\n", source.files)), "{message}");
        let read = read(&TaggedSource { tags: None, ..source }).unwrap();
        assert_eq!(read.records[1].words, ["b", "c"], "valid if tags are not read");
    }

    #[test]
    fn the_extension_determines_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir, "a.data", "a O\n");
        assert!(read(&source).unwrap_err().to_string().contains("rename the file to .conll or .jsonl, or set format"));
        let read = read(&TaggedSource { format: Some(TaggedFormat::Conll), ..source }).unwrap();
        assert_eq!(read.records.len(), 1);
    }
}
