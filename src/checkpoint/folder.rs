//! Atomic creation of folders: written under a temporary name, flushed, renamed, and marked complete.

use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that marks a complete checkpoint; it is written last.
pub const COMPLETE: &str = "COMPLETE";

/// Writes a file and flushes it to disk.
///
/// # Errors
/// The file name and the system error.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context(format!("{}: cannot be written", path.display()))
}

/// Copies a file and flushes the copy to disk. The umask determines its permissions, as for all files of a folder.
///
/// # Errors
/// The file name and the system error.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        let mut copy = File::create(to)?;
        std::io::copy(&mut File::open(from)?, &mut copy)?;
        copy.sync_all()
    };
    copy().context(format!("{} cannot be copied to {}", from.display(), to.display()))
}

/// Creates `target` with the content that `fill` writes. A folder with that name is never incomplete, and an existing
/// `target` is only replaced once the new one is complete. With `mark`, [`COMPLETE`] is written last.
///
/// # Errors
/// Errors of `fill` and of the file system; the temporary folder is removed.
pub fn replace(target: &Path, mark: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary_name(target)?;
    let result = build(&temporary, fill).and_then(|()| put(&temporary, target, mark));
    if result.is_err() {
        // The first error is reported; the next run removes a remaining temporary folder.
        _ = fs::remove_dir_all(&temporary);
    }
    result
}

/// Returns the name under which [`replace`] builds a folder.
///
/// # Errors
/// A path without a name.
pub fn temporary_name(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| Error::other(format!("{}: not a folder name", target.display())))?;
    Ok(target.with_file_name(format!(".{}.tmp", name.to_string_lossy())))
}

fn build(temporary: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if temporary.exists() {
        fs::remove_dir_all(temporary).context(temporary.display())?;
    }
    fs::create_dir_all(temporary).context(format!("{}: cannot be created", temporary.display()))?;
    fill(temporary)?;
    sync_dir(temporary)
}

fn put(temporary: &Path, target: &Path, mark: bool) -> Result<()> {
    // The old folder is renamed until the new one is in place.
    let old = temporary.with_extension("old.tmp");
    if target.exists() {
        fs::rename(target, &old).context(target.display())?;
    }
    let renamed = fs::rename(temporary, target).context(target.display());
    let placed = renamed.and_then(|()| if mark { write_file(&target.join(COMPLETE), b"") } else { Ok(()) });
    if placed.is_err() && old.exists() {
        // Restore the old folder, after removing an incomplete new one.
        _ = fs::remove_dir_all(target);
        _ = fs::rename(&old, target);
    }
    placed?;
    sync_dir(target)?;
    if old.exists() {
        remove(&old)?;
    }
    target.parent().map_or(Ok(()), sync_dir)
}

/// Removes a checkpoint, starting with the mark, so that an interrupted removal does not leave a folder marked
/// complete.
///
/// # Errors
/// The folder name and the system error.
pub fn remove(folder: &Path) -> Result<()> {
    let mark = folder.join(COMPLETE);
    if mark.exists() {
        fs::remove_file(&mark).context(mark.display())?;
    }
    fs::remove_dir_all(folder).context(folder.display())
}

fn sync_dir(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|d| d.sync_all()).context(folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_only_the_old_folder() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("checkpoint-1");
        replace(&target, true, |d| write_file(&d.join("a"), b"old")).unwrap();
        let failed = replace(&target, true, |d| {
            write_file(&d.join("a"), b"new")?;
            Err(Error::other("no space left"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(target.join("a")).unwrap(), b"old");
        assert!(target.join(COMPLETE).exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        replace(&target, true, |d| write_file(&d.join("a"), b"new")).unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"new");
    }
}
