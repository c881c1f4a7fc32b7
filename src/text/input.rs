//! Opens data files: decompression, byte order marks, lines, hashes.
//!
//! Files that begin as gzip (RFC 1952, with any number of members) or Zstandard (RFC 8878) are decompressed, whatever
//! their names; `.gz` and `.zst` are no part of the extension that determines the format.

use super::files::{Files, compression, number};
use super::pieces::{Content as PieceContent, Form, Object, Piece};
use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub use super::files::extension;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;
/// The largest window of zstd that is read, as a power of two: all that `zstd --long` writes.
const WINDOW_LOG: u32 = 31;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The start of a file's decompressed content, and the rest of it.
type Content = Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>;

/// The hash of what was read so far.
type SharedHasher = Arc<Mutex<blake3::Hasher>>;

/// A file that is read from its beginning to its end.
pub(super) struct Input<'a> {
    path: Cow<'a, Path>,
    file: usize,
    reader: BufReader<Content>,
    compression: Option<&'static str>,
    hasher: SharedHasher,
    line: usize,
    buffer: Vec<u8>,
    piece: Option<&'a Piece>,
}

/// A file whose bytes are hashed as they are read.
struct Hashed {
    file: std::fs::File,
    hasher: SharedHasher,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&buffer[..n]);
        Ok(n)
    }
}

impl<'a> Input<'a> {
    /// Opens a file, the `file`-th of its list (from 0), and skips a byte order mark.
    ///
    /// # Errors
    /// Exit 2: an unreadable file; a file that is not compressed as its name says; UTF-16.
    pub fn open(path: impl Into<Cow<'a, Path>>, file: usize) -> Result<Self> {
        let path = path.into();
        let hasher = SharedHasher::default();
        let (reader, compression) = open(&path, &hasher)?;
        Ok(Input { path, file, reader, compression, hasher, line: 0, buffer: Vec::new(), piece: None })
    }

    /// Opens the `file`-th (from 0) of these files, or the piece of it that is read.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn of(files: &'a Files, file: usize) -> Result<Self> {
        let path = files.paths()[file].as_path();
        let Some(piece) = files.piece(file) else { return Input::open(path, file) };
        let bytes = match &piece.content {
            PieceContent::Bytes(bytes) => bytes.clone(),
            PieceContent::Objects(_) => Vec::new(),
        };
        let rest: Box<dyn Read + Send> = Box::new(io::empty());
        let reader = BufReader::with_capacity(CHUNK, Cursor::new(bytes).chain(rest));
        let (path, hasher) = (Cow::Borrowed(path), SharedHasher::default());
        let (line, buffer, piece) = (piece.line, Vec::new(), Some(piece));
        Ok(Input { path, file, reader, compression: None, hasher, line, buffer, piece })
    }

    /// Returns the form of the piece, if it is one.
    pub fn form(&self) -> Option<&'a Form> {
        self.piece.map(|piece| &piece.form)
    }

    /// Returns the rows of the piece, if it is one of a columnar file.
    pub fn objects(&self) -> Option<&'a [Object]> {
        match &self.piece?.content {
            PieceContent::Objects(objects) => Some(objects),
            PieceContent::Bytes(_) => None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the [`number`] of a line.
    pub fn number(&self, line: usize) -> usize {
        number(self.file, line)
    }

    /// Returns an input error at a line.
    pub fn error(&self, line: usize, why: &str) -> Error {
        Error::input(format!("{}:{line}: {why}", self.path.display()))
    }

    fn failure(&self, e: &io::Error) -> Error {
        failure(&self.path, self.compression, e)
    }

    /// Returns the next line, counted from 1, without its ending (LF or CRLF).
    pub fn next_line(&mut self) -> Result<Option<(usize, &[u8])>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let found = self.append_line(&mut buffer);
        self.buffer = buffer;
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(found?.then_some((self.line, line)))
    }

    /// Appends the next line with its ending; false at the end of the file.
    pub fn append_line(&mut self, to: &mut Vec<u8>) -> Result<bool> {
        let n = self.reader.read_until(b'\n', to).map_err(|e| failure(&self.path, self.compression, &e))?;
        self.line += usize::from(n > 0);
        Ok(n > 0)
    }

    /// Returns the number of lines read so far with [`next_line`](Self::next_line).
    pub fn lines_read(&self) -> usize {
        self.line
    }

    /// Returns the bytes that are read next; empty at the end of the file.
    pub fn peek(&mut self) -> Result<&[u8]> {
        // The borrow of a returned buffer lasts, so that an error is made first.
        if let Err(e) = self.reader.fill_buf() {
            return Err(self.failure(&e));
        }
        Ok(self.reader.buffer())
    }

    /// Skips bytes that were [`peek`](Self::peek)ed, and counts their lines.
    pub fn skip(&mut self, n: usize) {
        self.line += newlines(&self.reader.buffer()[..n]);
        self.reader.consume(n);
    }

    /// Skips ASCII whitespace and returns the byte that follows.
    pub fn skip_blank(&mut self) -> Result<Option<u8>> {
        loop {
            let next = self.peek()?;
            let blank = next.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (ended, found) = (next.is_empty(), next.get(blank).copied());
            self.skip(blank);
            if ended || found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Reads the rest of the file.
    pub fn content(&mut self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.reader.read_to_end(&mut content).map_err(|e| failure(&self.path, self.compression, &e))?;
        Ok(content)
    }

    /// Returns what reads the rest of the file.
    pub fn into_reader(self) -> impl BufRead {
        self.reader
    }

    /// Reads to the end and returns the BLAKE3 hash of the file's bytes, before decompression.
    pub fn hash(mut self) -> Result<[u8; 32]> {
        io::copy(&mut self.reader, &mut io::sink()).map_err(|e| self.failure(&e))?;
        Ok(*self.hasher.lock().unwrap_or_else(PoisonError::into_inner).finalize().as_bytes())
    }
}

/// Opens the content of a file, without a byte order mark; returns its compression too.
fn open(path: &Path, hasher: &SharedHasher) -> Result<(BufReader<Content>, Option<&'static str>)> {
    let mut raw = std::fs::File::open(path)
        .map(|file| Hashed { file, hasher: hasher.clone() })
        .map_err(|e| unreadable(path, &e))?;
    let magic = start(&mut raw, 4).map_err(|e| unreadable(path, &e))?;
    let found = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd"),
        _ => None,
    };
    let compression = compression(path).filter(|_| found.is_none()).or(found);
    let whole = Cursor::new(magic).chain(raw);
    let mut reader: Box<dyn Read + Send> = match compression {
        Some("gzip") => Box::new(MultiGzDecoder::new(whole)),
        Some(_) => {
            let mut decoder = zstd::Decoder::new(whole).map_err(|e| unreadable(path, &e))?;
            decoder.window_log_max(WINDOW_LOG).map_err(|e| unreadable(path, &e))?;
            Box::new(decoder)
        }
        None => Box::new(whole),
    };
    let why = |e| failure(path, compression, &e);
    let mut head = start(&mut reader, 64).map_err(why)?;
    Error::refuse_lfs_pointer(path, &head)?;
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err(Error::input(format!("{}: the file is UTF-16; convert it to UTF-8", path.display())));
    }
    if head.starts_with(BYTE_ORDER_MARK) {
        head.drain(..BYTE_ORDER_MARK.len());
    }
    let reader = BufReader::with_capacity(CHUNK, Cursor::new(head).chain(reader));
    Ok((reader, compression))
}

pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}

/// Reads the first bytes, fewer from a shorter file.
fn start(from: &mut impl Read, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(n);
    from.take(n as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failure(path: &Path, compression: Option<&str>, e: &io::Error) -> Error {
    let Some(kind) = compression else { return unreadable(path, e) };
    let why = "was the copy interrupted, or is the file not compressed?";
    Error::input(format!("{}: not a complete {kind} file: {why} ({e})", path.display()))
}

pub(super) fn unreadable(path: &Path, e: &io::Error) -> Error {
    let why = match e.kind() {
        io::ErrorKind::NotFound => "no such file".to_string(),
        _ => e.to_string(),
    };
    Error::input(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::records::hash_file;
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &str) -> Vec<u8> {
        zstd::encode_all(text.as_bytes(), 3).unwrap()
    }

    /// Writes a file and returns its lines with their numbers.
    fn lines(name: &str, bytes: &[u8]) -> Result<Vec<(usize, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut input = Input::open(&path, 0)?;
        let mut lines = Vec::new();
        while let Some((number, line)) = input.next_line()? {
            lines.push((number, String::from_utf8(line.to_vec()).unwrap()));
        }
        assert_eq!(input.hash()?, hash_file(&path).unwrap(), "the hash of the compressed bytes");
        Ok(lines)
    }

    #[test]
    fn compressed_files_are_decompressed() {
        let expected = [(1, "a".to_owned()), (2, String::new()), (3, "b".to_owned())];
        for (name, bytes) in [
            ("a.jsonl", b"\xef\xbb\xbfa\n\nb".to_vec()),
            ("a.jsonl.gz", [gzip("a\r\n"), gzip("\nb\n")].concat()),
            ("a.jsonl.ZST", [zstd("a\n"), zstd("\n"), zstd("b")].concat()),
            ("zstd-without-a-name", zstd("a\n\nb\n")),
            ("gzip-named.json", gzip("\u{feff}a\n\nb\n")),
            // A frame with a window of 256 MiB (zstd --long=28) and one block, which is not compressed.
            ("long.jsonl.zst", [b"\x28\xb5\x2f\xfd\0\x90\x29\0\0".as_slice(), b"a\n\nb\n"].concat()),
        ] {
            assert_eq!(lines(name, &bytes).unwrap(), expected, "{name}");
        }
        assert!(lines("empty.gz", &gzip("")).unwrap().is_empty());
        assert!(lines("empty", b"").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let text = "{\"text\": \"a\", \"label\": 1}\n".repeat(50);
        let (gz, zst) = (gzip(&text), zstd(&text));
        let cut = |bytes: &[u8]| bytes[..bytes.len() - 3].to_vec();
        for (name, bytes, kind) in [
            ("a.jsonl.gz", cut(&gz), "gzip"),
            ("a.jsonl.gz", text.clone().into_bytes(), "gzip"),
            ("a.jsonl.gz", [gz.clone(), b"rubbish".to_vec()].concat(), "gzip"),
            ("a.jsonl.gz", Vec::new(), "gzip"),
            ("a.jsonl.zst", cut(&zst), "zstd"),
            ("a.jsonl.zst", text.into_bytes(), "zstd"),
            ("a.jsonl", cut(&zst), "zstd"),
        ] {
            let message = lines(name, &bytes).unwrap_err().to_string();
            assert!(message.contains(&format!("{name}: not a complete {kind} file")), "{message}");
        }
        assert!(lines("a.tsv", b"\xff\xfea\0").unwrap_err().to_string().contains("UTF-16"));
    }

    #[test]
    fn extensions() {
        let of = |name: &str| extension(Path::new(name));
        assert_eq!([of("a/b.TSV"), of("b.tsv.GZ"), of("b.gz"), of("b"), of("a.x/b")], ["tsv", "tsv", "", "", ""]);
        assert_eq!([of("b.json.zst"), of("b.csv.zstd")], ["json", "csv"]);
    }
}
