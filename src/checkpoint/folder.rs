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

/// Copies a file and flushes the copy to disk, in a subfolder that may not exist yet. The umask determines its
/// permissions, as for all files of a folder.
///
/// # Errors
/// The file name and the system error.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut copy = File::create(to)?;
        std::io::copy(&mut File::open(from)?, &mut copy)?;
        copy.sync_all()
    };
    copy().context(format!("{} cannot be copied to {}", from.display(), to.display()))
}

/// A folder that is built under a temporary name beside its place. Dropping it before [`Building::put`] removes it.
#[derive(Debug)]
pub struct Building {
    temporary: PathBuf,
    target: PathBuf,
    placed: bool,
}

impl Building {
    /// Creates the temporary folder, empty.
    ///
    /// # Errors
    /// The folder name and the system error.
    pub fn create(target: &Path) -> Result<Self> {
        let temporary = temporary_name(target)?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary).context(temporary.display())?;
        }
        let building = Building { temporary, target: target.to_owned(), placed: false };
        let temporary = &building.temporary;
        fs::create_dir_all(temporary).context(format!("{}: cannot be created", temporary.display()))?;
        Ok(building)
    }

    /// The temporary folder, for the files.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the folder in its place. A folder with that name is never incomplete: an existing one is only replaced once
    /// the new one is complete. With `mark`, [`COMPLETE`] is written last.
    ///
    /// # Errors
    /// Those of the file system; the temporary folder is removed.
    pub fn put(mut self, mark: bool) -> Result<()> {
        sync_dir(&self.temporary)?;
        put(&self.temporary, &self.target, mark)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.placed {
            // The first error is reported; the next run removes a remaining temporary folder.
            _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Creates `target` with the content that `fill` writes, as [`Building`] does.
///
/// # Errors
/// Errors of `fill` and of the file system; the temporary folder is removed.
pub fn replace(target: &Path, mark: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let building = Building::create(target)?;
    fill(building.path())?;
    building.put(mark)
}

/// Returns the name under which a folder is built.
///
/// # Errors
/// A path without a name.
pub fn temporary_name(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| Error::other(format!("{}: not a folder name", target.display())))?;
    Ok(target.with_file_name(format!(".{}.tmp", name.to_string_lossy())))
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
    sync_dir(holding(target))
}

/// Returns the folder that a folder is in; the current one for a mere name.
fn holding(folder: &Path) -> &Path {
    folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
    fn a_mere_name_is_in_the_current_folder() {
        assert_eq!(
            ["merged", "a/merged", "/merged"].map(|name| holding(Path::new(name))),
            [".", "a", "/"].map(Path::new)
        );
    }

    #[test]
    fn a_file_may_be_copied_to_a_new_subfolder() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["a", "sub/b"].map(|name| dir.path().join(name));
        write_file(&from, b"x").unwrap();
        copy_file(&from, &to).unwrap();
        assert_eq!(fs::read(to).unwrap(), b"x");
    }

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
