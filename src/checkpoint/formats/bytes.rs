//! A file of which ranges are read: mapped into memory, or read piece by piece where the file system cannot map.

use crate::error::{Context, Error, Result};
use memmap2::{Mmap, UncheckedAdvice};
use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An open file of known length.
#[derive(Debug)]
pub struct FileBytes {
    path: PathBuf,
    file: File,
    length: usize,
    /// `None` on file systems that cannot map files, such as some FUSE and 9p mounts.
    map: Option<Mmap>,
}

impl FileBytes {
    /// Opens a file.
    ///
    /// # Errors
    /// Exit 2: no such file, or a Git LFS pointer.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).input_context(path.display())?;
        let length = file.metadata().input_context(path.display())?.len() as usize;
        // SAFETY: the map is read only; a file that another process shortens meanwhile would fault, as with any mapped
        // file.
        let map = unsafe { Mmap::map(&file) };
        if let Err(e) = &map {
            tracing::info!("{}: cannot be mapped ({e}): it is read instead", path.display());
        }
        let opened = FileBytes { path: path.to_owned(), file, length, map: map.ok() };
        Error::refuse_lfs_pointer(path, &opened.get(0..length.min(64))?)?;
        Ok(opened)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns bytes of the file.
    ///
    /// # Errors
    /// Exit 2: a range that is not in the file, or it cannot be read.
    pub fn get(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        if range.start > range.end || range.end > self.length {
            return Err(self.damaged(format!("bytes {} to {} are not in it", range.start, range.end)));
        }
        if let Some(map) = &self.map {
            // A file that became longer or shorter since its length was read.
            let bytes = map.get(range.clone());
            return bytes.map(Cow::Borrowed).ok_or_else(|| self.damaged("it changed while it was opened"));
        }
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, range.start as u64).input_context(self.path.display())?;
        Ok(Cow::Owned(bytes))
    }

    /// Gives bytes of the map back, which the system keeps in its cache: a rank that reads a file larger than its
    /// memory must not seem to hold it.
    pub fn release(&self, range: Range<usize>) {
        let Some(map) = &self.map else { return };
        // SAFETY: the pages of a file that is mapped for reading are read again when they are used again.
        let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        // Without it, only the figure is larger.
        _ = advised;
    }

    /// Returns the error of a file that is not as its format requires.
    pub fn damaged(&self, why: impl std::fmt::Display) -> Error {
        Error::input(format!(
            "{}: not a complete weight file ({why}); it has {} bytes: was the download or the copy interrupted? \
             Download it again",
            self.path.display(),
            self.length
        ))
    }

    /// Returns the error of a file that is not read for another reason.
    pub fn refused(&self, why: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: {why}", self.path.display()))
    }
}

/// Reads little-endian numbers and parts of a byte string from its start. `None` at its end.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Cursor { bytes, at }
    }

    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Reads an unsigned number of `width` bytes, at most 8.
    pub fn number(&mut self, width: usize) -> Option<u64> {
        let bytes = self.take(width)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Reads a length of `width` bytes.
    pub fn length(&mut self, width: usize) -> Option<usize> {
        usize::try_from(self.number(width)?).ok()
    }

    /// Reads a base-128 number, as in protobufs.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.number(1)?;
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads up to the next line feed, which is consumed.
    pub fn line(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let line = &rest[..rest.iter().position(|&byte| byte == b'\n')?];
        self.at += line.len() + 1;
        Some(line)
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a file system that cannot map, the same bytes are read.
    #[test]
    fn a_file_that_cannot_be_mapped_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), (0..100).collect::<Vec<u8>>()).unwrap();
        let mapped = FileBytes::open(file.path()).unwrap();
        let read = FileBytes { map: None, ..FileBytes::open(file.path()).unwrap() };
        assert!(mapped.map.is_some());
        for range in [0..100, 3..17, 99..100, 50..50] {
            assert_eq!(read.get(range.clone()).unwrap(), mapped.get(range.clone()).unwrap());
            read.release(range);
        }
        for file in [mapped, read] {
            let message = file.get(90..101).unwrap_err().to_string();
            assert!(message.contains("bytes 90 to 101 are not in it"), "{message}");
        }
    }

    #[test]
    fn numbers_are_little_endian_and_end_with_the_bytes() {
        let mut at = Cursor::new(b"\x01\x02\xac\x02line\nrest", 0);
        assert_eq!((at.number(2), at.varint(), at.line()), (Some(0x201), Some(300), Some(&b"line"[..])));
        assert_eq!((at.number(5), at.line(), at.array(), at.is_at_end()), (None, None, Some(*b"rest"), true));
        assert_eq!((at.varint(), Cursor::new(&[0x80; 12], 0).varint()), (None, None));
    }
}
