//! `metrics.jsonl`: one JSON object per line, flushed after each line.

use super::logs::warn;
use super::whole_file;
use crate::error::{Context, Result};
use serde_json::Value;
use std::fs::{self, File};
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
    /// Opens the file with `history`: nothing for a new run, the checkpoint's lines for a resumed run, so that repeated
    /// steps have no duplicate lines. It replaces an earlier file when those lines are written, so that whoever watches
    /// the run, or a process killed meanwhile, never sees fewer.
    ///
    /// # Errors
    /// The file's name and the error of the system; the earlier file stays.
    pub fn open(path: &Path, history: &[Value]) -> Result<Self> {
        let part = whole_file::temporary(path);
        let open = || -> io::Result<Self> {
            let file = File::create(&part)?;
            let waiting = history.iter().map(|line| format!("{line}\n")).collect();
            let mut metrics = MetricsFile { path: path.to_owned(), file, length: 0, waiting, has_warned: false };
            metrics.flush()?;
            fs::rename(&part, path)?;
            Ok(metrics)
        };
        let opened = open().inspect_err(|_| _ = fs::remove_file(&part));
        opened.context(format!("{}: cannot be written", path.display()))
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
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut metrics.file, full);
        metrics.write(&json!({"step": 2}));
        metrics.write(&json!({"step": 3}));
        assert!(metrics.has_warned);
        metrics.file = file;
        metrics.write(&json!({"step": 4}));
        let lines: String = (1..5).map(|step| format!("{{\"step\":{step}}}\n")).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), lines);
    }

    #[test]
    fn an_earlier_file_is_replaced_by_the_whole_history_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n").unwrap();
        let earlier = File::open(&path).unwrap();
        let mut metrics = MetricsFile::open(&path, &[json!({"step": 1}), json!({"step": 2})]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
        assert_eq!(earlier.metadata().unwrap().len(), 33, "it is replaced, not emptied");
        metrics.write(&json!({"step": 4}));
        let lines = fs::read_to_string(&path).unwrap();
        assert_eq!(lines, "{\"step\":1}\n{\"step\":2}\n{\"step\":4}\n");

        fs::create_dir(dir.path().join(".metrics.jsonl.tmp")).unwrap();
        let why = MetricsFile::open(&path, &[]).unwrap_err().to_string();
        assert!(why.contains("metrics.jsonl: cannot be written: "), "{why}");
        assert_eq!(fs::read_to_string(&path).unwrap(), lines);
    }
}
