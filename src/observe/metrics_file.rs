//! `metrics.jsonl`: one JSON object per line, flushed after each line.

use super::logs::warn;
use crate::error::{Context, Result};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The metrics of a run, open for appending. A run does not end because a line cannot be written: there is one warning,
/// and the lines wait for the next one.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Lines that could not be written yet.
    waiting: String,
    has_warned: bool,
}

impl MetricsFile {
    /// Opens the file and writes `history`: nothing for a new run, the checkpoint's lines for a resumed run, so that
    /// repeated steps have no duplicate lines.
    ///
    /// # Errors
    /// The file's name and the error of the system.
    pub fn open(path: &Path, history: &[Value]) -> Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path).context(path.display())?;
        let waiting = history.iter().map(|line| format!("{line}\n")).collect();
        let mut metrics = MetricsFile { path: path.to_owned(), file, length: 0, waiting, has_warned: false };
        metrics.flush().context(format!("{}: cannot be written", path.display()))?;
        Ok(metrics)
    }

    /// Appends a line, and those that could not be written before.
    pub fn write(&mut self, line: &Value) {
        self.waiting += &format!("{line}\n");
        let Err(e) = self.flush() else { return };
        if !self.has_warned {
            self.has_warned = true;
            warn(&format!(
                "{}: cannot be written: {e}: the run goes on, and its metrics are written when there is space",
                self.path.display()
            ));
        }
    }

    /// Writes the waiting lines, or none of them: a part of a line would be no JSON.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(self.waiting.as_bytes());
        if written.is_ok() {
            self.length += self.waiting.len() as u64;
            self.waiting.clear();
        } else {
            self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)).map(|_| ())).ok();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `/dev/full` simulates a full disk.
    #[test]
    fn lines_wait_until_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = MetricsFile::open(&path, &[json!({"step": 1})]).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut metrics.file, full);
        metrics.write(&json!({"step": 2}));
        metrics.write(&json!({"step": 3}));
        assert!(metrics.has_warned);
        metrics.file = file;
        metrics.write(&json!({"step": 4}));
        let lines: String = (1..5).map(|step| format!("{{\"step\":{step}}}\n")).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines);
    }
}
