//! `metrics.jsonl`: one JSON object per line, flushed after each line.

use crate::error::{Context, Result};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The metrics of a run, open for appending.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file and writes `history`: nothing for a new run, the checkpoint's lines for a resumed run, so that
    /// repeated steps have no duplicate lines.
    ///
    /// # Errors
    /// The file's name and the error of the system.
    pub fn open(path: &Path, history: &[Value]) -> Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path).context(path.display())?;
        let mut metrics = MetricsFile { path: path.to_owned(), file };
        history.iter().try_for_each(|line| metrics.write(line))?;
        Ok(metrics)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The file's name and the system's error, such as a full disk.
    pub fn write(&mut self, line: &Value) -> Result<()> {
        let mut text = line.to_string();
        text.push('\n');
        self.file.write_all(text.as_bytes()).context(format!("{}: cannot be written", self.path.display()))
    }
}
