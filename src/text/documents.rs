//! Reads documents for language modeling: plain text files, or the text column of records.

use super::gzip;
use super::records::{self, File, OnBad, Records, Source, lines};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

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

/// A file of documents, and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentSource {
    /// A plain text file.
    Text { path: PathBuf, division: Division },
    /// Each record's text is a document.
    Records(Source),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Number of its first line, from 1.
    pub line: usize,
    pub text: String,
}

/// Whether the extension is one of plain text.
pub fn is_text(path: &Path) -> bool {
    ["txt", "text", "md"].contains(&gzip::extension(path).as_str())
}

impl DocumentSource {
    pub fn path(&self) -> &Path {
        match self {
            DocumentSource::Text { path, .. } => path,
            DocumentSource::Records(source) => &source.path,
        }
    }

    /// All settings that determine the documents, besides the file's content (part of the cache key).
    pub fn settings(&self) -> String {
        match self {
            DocumentSource::Text { division, .. } => format!("{division:?}"),
            DocumentSource::Records(source) => {
                let Source { columns, header, fields, on_bad_record, .. } = source;
                // An unknown format fails in `read`.
                format!("{:?}", (records::format_of(source).ok(), columns, header, fields, on_bad_record))
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
            let Records { records, skipped, guessed, bytes_hash } = records::read(source)?;
            let documents = records.into_iter().map(|record| Document { line: record.line, text: record.text });
            Ok(Records { records: documents.collect(), skipped, guessed, bytes_hash })
        }
        DocumentSource::Text { path, division } => {
            let file = File::open(path)?;
            let content = file.content();
            let text = std::str::from_utf8(content).map_err(|e| {
                let line = 1 + content[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
                Error::input(format!("{}:{line}: not UTF-8; convert the file to UTF-8", path.display()))
            })?;
            file.collect(divide(text, *division).into_iter().map(Ok).collect(), OnBad::Error, false)
        }
    }
}

fn divide(text: &str, division: Division) -> Vec<Document> {
    if division == Division::File {
        let documents = (!text.trim().is_empty()).then(|| Document { line: 1, text: text.to_owned() });
        return documents.into_iter().collect();
    }
    let mut documents: Vec<Document> = Vec::new();
    let mut is_open = false;
    for (line, bytes) in lines(text.as_bytes()) {
        // Lines end at an ASCII byte, so each one is valid UTF-8.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let is_blank = text.trim().is_empty();
        match documents.last_mut().filter(|_| is_open && !is_blank && division == Division::Paragraphs) {
            Some(document) => {
                document.text.push('\n');
                document.text.push_str(text);
            }
            None if is_blank => {}
            None => documents.push(Document { line, text: text.to_owned() }),
        }
        is_open = !is_blank;
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::records::Fields;

    fn of(content: &[u8], division: Division) -> Result<Vec<(usize, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, content).unwrap();
        let read = read(&DocumentSource::Text { path, division })?;
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
        let source = Source { path, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error };
        let read = read(&DocumentSource::Records(source)).unwrap();
        assert_eq!(read.records, [(1, "a\n\nb"), (3, "c")].map(|(line, text)| Document { line, text: text.into() }));
    }
}
