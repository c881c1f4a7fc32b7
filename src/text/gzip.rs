//! Files packed with gzip (RFC 1952), told by the ending `.gz` of their names.

use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::path::Path;

/// The ending that tells a file's format, in small letters: that before `.gz` of a packed file; empty without one.
pub fn extension(path: &Path) -> String {
    let name = if is_packed(path) { path.with_extension("") } else { path.to_owned() };
    ending(&name)
}

/// What a file holds that has these bytes.
///
/// # Errors
/// A packed file that is cut off or damaged (exit 2).
pub(super) fn unpacked(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if !is_packed(path) {
        return Ok(bytes);
    }
    let mut content = Vec::new();
    MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut content).map_err(|e| {
        let why = "not a whole gzip file: was the copy cut off, or is it not packed?";
        Error::input(format!("{}: {why} ({e})", path.display()))
    })?;
    Ok(content)
}

fn is_packed(path: &Path) -> bool {
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

    fn packed(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn source(path: &Path) -> Source {
        let (path, fields) = (path.to_owned(), Fields::default());
        Source { path, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error }
    }

    /// Its format is told by the ending before, its lines are counted unpacked, and its hash is of its own bytes.
    #[test]
    fn a_packed_file_is_read_as_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl.gz");
        let parts = [packed("{\"text\": \"a\", \"label\": 1}\n"), packed("\n{\"text\": \"b\", \"label\": 2}\n")];
        std::fs::write(&path, parts.concat()).unwrap();
        let read = records::read(&source(&path)).unwrap();
        assert_eq!(read.records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(read.bytes_hash, hash_file(&path).unwrap());
    }

    #[test]
    fn a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl.gz");
        let whole = packed("{\"text\": \"a\", \"label\": 1}\n");
        for bytes in [&whole[..whole.len() - 3], b"{\"text\": \"a\", \"label\": 1}\n"] {
            std::fs::write(&path, bytes).unwrap();
            let message = records::read(&source(&path)).unwrap_err().to_string();
            assert!(message.contains("a.jsonl.gz: not a whole gzip file"), "{message}");
        }
    }

    #[test]
    fn endings() {
        let of = |name: &str| extension(Path::new(name));
        assert_eq!([of("a/b.TSV"), of("b.tsv.GZ"), of("b.gz"), of("b"), of("a.x/b")], ["tsv", "tsv", "", "", ""]);
    }
}
