//! The output of predictions: JSON lines or CSV.

use crate::error::{Context, Error, Result};
use crate::text::columns;
use crate::text::files::folder_of;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The output lines, one per record.
pub(super) struct Lines {
    pub rows: Vec<Map<String, Value>>,
    /// Whether to write CSV with a header instead of JSON lines.
    pub csv: bool,
}

impl Lines {
    fn write(&self, to: impl Write) -> std::io::Result<()> {
        let mut to = BufWriter::new(to);
        if self.csv {
            columns::write_csv(&self.rows, &mut to)?;
        } else {
            for row in &self.rows {
                serde_json::to_writer(&mut to, row)?;
                to.write_all(b"\n")?;
            }
        }
        to.flush()
    }
}

/// The destination of predictions.
pub(super) enum Output {
    /// A pipe or a device.
    Stream(Box<dyn Write>),
    /// A file, written under a temporary name and renamed when complete: an interrupted program leaves nothing behind.
    File { temporary: PathBuf, target: PathBuf },
}

impl Output {
    /// # Errors
    /// Exit 2: the path is the input or a folder, its folder does not exist, or it cannot be written.
    pub fn create(path: &Path, input: Option<&Path>) -> Result<Self> {
        let there = fs::metadata(path).ok();
        let input = input.and_then(|input| fs::canonicalize(input).ok());
        if there.is_some() && input.is_some() && fs::canonicalize(path).ok() == input {
            return Err(Error::input("this is also the input, which would be overwritten; give another file"));
        }
        if there.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(Error::input("this is a folder; give a file in it"));
        }
        if there.is_some_and(|there| !there.is_file()) {
            let file = File::options().write(true).open(path).input_context("it cannot be opened")?;
            return Ok(Output::Stream(Box::new(file)));
        }
        // A symbolic link is kept; its target is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = folder_of(&target);
        if !folder.is_dir() {
            return Err(Error::input(format!("no such folder: {}; create it first", folder.display())));
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        // Creates the file once to check that it can be created.
        drop(File::create_new(&temporary).input_context(temporary.display())?);
        fs::remove_file(&temporary).context(temporary.display())?;
        Ok(Output::File { temporary, target })
    }

    pub fn standard() -> Self {
        Output::Stream(Box::new(std::io::stdout()))
    }

    /// # Errors
    /// An I/O error; an existing file is then unchanged.
    pub fn write(self, lines: &Lines) -> std::io::Result<()> {
        match self {
            Output::Stream(to) => lines.write(to),
            Output::File { temporary, target } => {
                let file = File::create_new(&temporary)?;
                let written = lines.write(file).and_then(|()| fs::rename(&temporary, &target));
                if written.is_err() {
                    // A full disk may be the cause: frees the space.
                    _ = fs::remove_file(&temporary);
                }
                written
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::json;

    fn lines(rows: &[Value]) -> Lines {
        Lines { rows: rows.iter().map(|row| row.as_object().unwrap().clone()).collect(), csv: false }
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_output_is_complete_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let [input, path] = ["in.jsonl", "out.jsonl"].map(|name| dir.path().join(name));
        fs::write(&input, "kept").unwrap();
        drop(Output::create(&path, Some(&input)).unwrap());
        assert_eq!(files(dir.path()), ["in.jsonl"]);

        fs::write(&path, "before").unwrap();
        let output = Output::create(&path, Some(&input)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        output.write(&lines(&[json!({"a": 1}), json!({"b": 2})])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(files(dir.path()), ["in.jsonl", "out.jsonl"]);
    }

    #[test]
    fn links_and_devices_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| dir.path().join(name));
        fs::write(&target, "before").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        Output::create(&link, Some(Path::new("in"))).unwrap().write(&lines(&[json!({"a": 1})])).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "{\"a\":1}\n");
        let device = Output::create(Path::new("/dev/null"), Some(Path::new("in"))).unwrap();
        assert!(matches!(device, Output::Stream(_)));
        device.write(&lines(&[json!({"a": 1})])).unwrap();
    }

    #[test]
    fn invalid_output_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.jsonl");
        fs::write(&input, "kept").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        let missing = dir.path().join("nowhere/out.jsonl");
        let cases = [
            (&input, "the input"),
            (&link, "the input"),
            (&missing, "no such folder"),
            (&dir.path().into(), "a folder"),
        ];
        for (path, says) in cases {
            let e = Output::create(path, Some(&input)).err().unwrap();
            assert!(e.kind() == Kind::Input && e.to_string().contains(says), "{path:?}: {e}");
        }
        assert_eq!(fs::read_to_string(&input).unwrap(), "kept");
    }
}
