//! Files that nobody sees in part: they are written under another name and renamed.

use crate::error::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the name that a file has while it is written, in the same folder: `.NAME.tmp`.
pub fn temporary(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.tmp", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Writes a file. One that was there before is replaced in one step.
///
/// # Errors
/// The file's name and the system's error; what was there before stays.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let part = temporary(path);
    let written = fs::write(&part, content).and_then(|()| fs::rename(&part, path));
    written.context(format!("{}: cannot be written", path.display())).inspect_err(|_| _ = fs::remove_file(&part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_is_replaced_in_one_step_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        write(&path, "first").unwrap();
        let before = File::open(&path).unwrap();
        write(&path, "the second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "the second");
        assert_eq!(before.metadata().unwrap().len(), 5, "it is replaced, not emptied");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::create_dir(temporary(&path)).unwrap();
        let why = write(&path, "the third").unwrap_err().to_string();
        assert!(why.contains("config.toml: cannot be written: "), "{why}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "the second");
        let lost = folder.path().join("removed").join("config.toml");
        let why = write(&lost, "nothing").unwrap_err().to_string();
        assert!(why.contains("removed/config.toml: cannot be written"), "{why}");
    }
}
