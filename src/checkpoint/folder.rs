//! Folders that are either whole or not there: written under a temporary name, flushed, renamed, marked.

use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that makes a folder a checkpoint. It is written last.
pub const COMPLETE: &str = "COMPLETE";

/// Writes a file and flushes it to the disk.
///
/// # Errors
/// The file's name and what the system says.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context(format!("{}: cannot be written", path.display()))
}

/// Copies a file and flushes the copy to the disk. Who may read it is up to the umask, as with all files of a folder.
///
/// # Errors
/// The file's name and what the system says.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        let mut copy = File::create(to)?;
        std::io::copy(&mut File::open(from)?, &mut copy)?;
        copy.sync_all()
    };
    copy().context(format!("{} cannot be copied to {}", from.display(), to.display()))
}

/// Makes `target` with the content that `fill` writes: at no time does a half-written folder bear that name, and an
/// older `target` is replaced only when the new one is whole. With `mark`, [`COMPLETE`] is written last.
///
/// # Errors
/// Those of `fill` and of the file system; the temporary folder is removed.
pub fn replace(target: &Path, mark: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary_name(target)?;
    let result = build(&temporary, fill).and_then(|()| put(&temporary, target, mark));
    if result.is_err() {
        // What went wrong is already known; a temporary folder that cannot be removed is cleared by the next run.
        _ = fs::remove_dir_all(&temporary);
    }
    result
}

fn temporary_name(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| Error::other(format!("{}: not a folder name", target.display())))?;
    Ok(target.with_file_name(format!(".{}.tmp", name.to_string_lossy())))
}

fn build(temporary: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if temporary.exists() {
        fs::remove_dir_all(temporary).context(temporary.display())?;
    }
    fs::create_dir_all(temporary).context(format!("{}: cannot be made", temporary.display()))?;
    fill(temporary)?;
    sync_dir(temporary)
}

fn put(temporary: &Path, target: &Path, mark: bool) -> Result<()> {
    // The old folder steps aside until the new one is in its place.
    let old = temporary.with_extension("old.tmp");
    if target.exists() {
        fs::rename(target, &old).context(target.display())?;
    }
    let renamed = fs::rename(temporary, target).context(target.display());
    let placed = renamed.and_then(|()| if mark { write_file(&target.join(COMPLETE), b"") } else { Ok(()) });
    if placed.is_err() && old.exists() {
        // The old folder comes back; what stands in its way is half a new one, if anything.
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

/// Removes a checkpoint: first the mark, so that an interrupted removal leaves no folder that looks whole.
///
/// # Errors
/// The folder's name and what the system says.
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
    fn a_failed_write_leaves_the_old_folder_and_nothing_else() {
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
