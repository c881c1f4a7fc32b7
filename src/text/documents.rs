//! Reads documents for language modeling: plain text files, or the text column of records.

use super::files::Files;
use super::input::{Input, extension};
use super::part::Divisible;
use super::records::{self, OnBad, Records, Source, utf8};
use crate::error::Result;
use std::path::Path;

/// How a plain text file is split into documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// The whole file is one document.
    File,
    /// Each non-blank line is a document.
    Lines,
    /// Blank lines separate documents.
    Paragraphs,
}

/// Files of documents, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentSource {
    /// Plain text files.
    Text { files: Files, division: Division },
    /// Each record's text is a document.
    Records(Source),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Number of its first line, from 1.
    pub line: usize,
    pub text: String,
}

impl Divisible for Document {}

/// Whether the extension is one of plain text.
pub fn is_text(path: &Path) -> bool {
    ["txt", "text", "md"].contains(&extension(path).as_str())
}

impl DocumentSource {
    pub fn files(&self) -> &Files {
        match self {
            DocumentSource::Text { files, .. } => files,
            DocumentSource::Records(source) => &source.files,
        }
    }

    /// All settings that determine the documents, besides the file's content (part of the cache key).
    pub fn settings(&self) -> String {
        match self {
            DocumentSource::Text { division, .. } => format!("{division:?}"),
            DocumentSource::Records(source) => {
                let Source { columns, header, fields, on_bad_record, .. } = source;
                format!(
                    "{:?}",
                    (records::formats(&source.files, source.format), columns, header, fields, on_bad_record)
                )
            }
        }
    }
}

/// Reads documents.
///
/// # Errors
/// Input errors (exit 2): those of [`records::read`]; a text file that is not UTF-8, or has only blank lines.
pub fn read(source: &DocumentSource) -> Result<Records<Document>> {
    match source {
        DocumentSource::Records(source) => {
            Ok(records::read(source)?.map(|record| Document { line: record.line, text: record.text }))
        }
        DocumentSource::Text { files, division } => {
            records::gather(files, OnBad::Error, false, |input, into| divide(input, *division, &mut into.records))
        }
    }
}

fn divide(input: &mut Input, division: Division, documents: &mut Vec<Document>) -> Result<()> {
    let base = input.number(0);
    let not_text = |input: &Input, line| input.error(line, "not UTF-8; convert the file to UTF-8");
    if division == Division::File {
        let text = String::from_utf8(input.content()?)
            .map_err(|e| not_text(input, 1 + super::input::newlines(&e.as_bytes()[..e.utf8_error().valid_up_to()])))?;
        documents.extend((!text.trim().is_empty()).then_some(Document { line: base + 1, text }));
        return Ok(());
    }
    let mut is_open = false;
    while let Some((line, bytes)) = input.next_line()? {
        let Ok(text) = utf8(bytes) else { return Err(not_text(input, line)) };
        let is_blank = text.trim().is_empty();
        match documents.last_mut().filter(|_| is_open && !is_blank && division == Division::Paragraphs) {
            Some(document) => {
                document.text.push('\n');
                document.text.push_str(text);
            }
            None if is_blank => {}
            None => documents.push(Document { line: base + line, text: text.to_owned() }),
        }
        is_open = !is_blank;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::records::Fields;

    fn of(content: &[u8], division: Division) -> Result<Vec<(usize, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, content).unwrap();
        let read = read(&DocumentSource::Text { files: path.into(), division })?;
        Ok(read.records.into_iter().map(|document| (document.line, document.text)).collect())
    }

    #[test]
    fn a_text_is_split_into_documents() {
        let content = "\u{feff}\n a b\r\nc\n \n\nd\n".as_bytes();
        let wanted =
            |all: &[(usize, &str)]| all.iter().map(|(line, text)| (*line, text.to_string())).collect::<Vec<_>>();
        assert_eq!(of(content, Division::File).unwrap(), wanted(&[(1, "\n a b\r\nc\n \n\nd\n")]));
        assert_eq!(of(content, Division::Lines).unwrap(), wanted(&[(2, " a b"), (3, "c"), (6, "d")]));
        assert_eq!(of(content, Division::Paragraphs).unwrap(), wanted(&[(2, " a b\nc"), (6, "d")]));
    }

    #[test]
    fn blank_or_non_utf8_text_is_an_error() {
        for division in [Division::File, Division::Lines, Division::Paragraphs] {
            let message = |content: &[u8]| of(content, division).unwrap_err().to_string();
            assert!(message(b" \n\n").contains("a.txt: the data set is empty"));
            assert!(message(b"a\nb\xff\n").contains("a.txt:2: not UTF-8"));
        }
    }

    #[test]
    fn records_are_documents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\": \"a\\n\\nb\"}\n\n{\"text\": \"c\"}\n").unwrap();
        let fields = Fields { label: None, ..Fields::default() };
        let source = Source {
            files: path.into(),
            format: None,
            columns: None,
            header: None,
            fields,
            on_bad_record: OnBad::Error,
        };
        let read = read(&DocumentSource::Records(source)).unwrap();
        assert_eq!(read.records, [(1, "a\n\nb"), (3, "c")].map(|(line, text)| Document { line, text: text.into() }));
    }
}
