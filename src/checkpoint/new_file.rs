//! A file that gets its name when it is complete.

use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file being written under a temporary name in the same folder. [`NewFile::finish`] renames it; dropping it before
/// removes it.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    renamed: bool,
}

impl NewFile {
    /// Creates the temporary file, `.NAME.tmp`.
    ///
    /// # Errors
    /// A path without a name; system errors.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name();
        let name = name.ok_or_else(|| Error::other(format!("{}: not the name of a file", path.display())))?;
        let temporary = path.with_file_name(format!(".{}.tmp", name.to_string_lossy()));
        let file = File::create(&temporary).context(format_args!("{}: cannot be written", path.display()))?;
        Ok(NewFile { path: path.to_owned(), temporary, file: BufWriter::with_capacity(1 << 20, file), renamed: false })
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// System errors, such as a full disk; some appear only in [`NewFile::finish`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Flushes the file to disk and renames it, replacing an existing file. The umask determines its permissions.
    /// Flushing the folder, so that the name survives a power loss, is up to the caller: see [`super::folder`].
    ///
    /// # Errors
    /// System errors.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.renamed {
            // The error that caused the drop matters more than a remaining file.
            _ = fs::remove_file(&self.temporary);
        }
    }
}
