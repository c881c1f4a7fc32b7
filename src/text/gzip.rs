//! Gzip-compressed files (RFC 1952), recognized by the extension `.gz`.

use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::path::Path;

/// Returns the extension in lowercase, ignoring a final `.gz`; empty if there is none.
pub fn extension(path: &Path) -> String {
    let name = if is_compressed(path) { path.with_extension("") } else { path.to_owned() };
    ending(&name)
}

/// Returns the file content, decompressed if the path ends in `.gz`.
///
/// # Errors
/// A gzip file that is truncated or damaged (exit 2).
pub(super) fn decompress(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if !is_compressed(path) {
        return Ok(bytes);
    }
    let mut content = Vec::new();
    MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut content).map_err(|e| {
        let why = "not a complete gzip file: was the copy interrupted, or is the file not compressed?";
        Error::input(format!("{}: {why} ({e})", path.display()))
    })?;
    Ok(content)
}

fn is_compressed(path: &Path) -> bool {
    ending(path) == "gz"
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::records::{self, Fields, OnBad, Source, hash_file};
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn compressed(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn source(path: &Path) -> Source {
        let (path, fields) = (path.to_owned(), Fields::default());
        Source { path, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error }
    }

    /// The format follows from the extension before `.gz`; line numbers refer to the decompressed content; the hash is
    /// of the compressed bytes.
    #[test]
    fn a_gzip_file_is_decompressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl.gz");
        let parts =
            [compressed("{\"text\": \"a\", \"label\": 1}\n"), compressed("\n{\"text\": \"b\", \"label\": 2}\n")];
        std::fs::write(&path, parts.concat()).unwrap();
        let read = records::read(&source(&path)).unwrap();
        assert_eq!(read.records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(read.bytes_hash, hash_file(&path).unwrap());
    }

    #[test]
    fn a_damaged_gzip_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl.gz");
        let whole = compressed("{\"text\": \"a\", \"label\": 1}\n");
        for bytes in [&whole[..whole.len() - 3], b"{\"text\": \"a\", \"label\": 1}\n"] {
            std::fs::write(&path, bytes).unwrap();
            let message = records::read(&source(&path)).unwrap_err().to_string();
            assert!(message.contains("a.jsonl.gz: not a complete gzip file"), "{message}");
        }
    }

    #[test]
    fn extensions() {
        let of = |name: &str| extension(Path::new(name));
        assert_eq!([of("a/b.TSV"), of("b.tsv.GZ"), of("b.gz"), of("b"), of("a.x/b")], ["tsv", "tsv", "", "", ""]);
    }
}
