//! The metrics of a run for TensorBoard.

use super::event_file::{scalars, start, times};
use super::logs::warn;
use crate::error::{Context, Error, Result};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of the event file in a run's folder.
pub const FOLDER: &str = "tensorboard";
/// What names of event files begin with.
const PREFIX: &str = "events.out.tfevents.";

/// The event file of a run. A run does not end because it cannot be written: there is one warning, and no more events.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: Option<File>,
}

impl TensorBoard {
    /// Creates an event file with the lines of `history` and removes the earlier ones, from which lines that are in
    /// both keep their time. So the folder always has each step once.
    pub fn open(run: &Path, host: &str, history: &[Value]) -> Self {
        let folder = run.join(FOLDER);
        match Self::create(&folder, host, history) {
            Ok((path, file)) => TensorBoard { path, file: Some(file) },
            Err(e) => {
                warn(&silence(&e));
                TensorBoard { path: folder, file: None }
            }
        }
    }

    fn create(folder: &Path, host: &str, history: &[Value]) -> Result<(PathBuf, File)> {
        fs::create_dir_all(folder).context(folder.display())?;
        let (earlier, now) = (event_files(folder), now());
        // Readers take the files of a folder in the order of their names and do not return to an earlier one.
        let second = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok();
        let newest = earlier.iter().filter_map(second).max().map_or(0, |last: u64| last + 1);
        let name = format!("{PREFIX}{:010}.{host}.{}", newest.max(now as u64), std::process::id());
        let mut known: HashMap<u64, f64> = HashMap::new();
        if !history.is_empty() {
            let events = earlier.iter().filter_map(|path| fs::read(path).ok()).flat_map(|bytes| times(&bytes));
            events.for_each(|(time, step)| _ = known.entry(step).or_insert(time));
        }
        let mut bytes = start(now, 0);
        for line in history {
            let (step, values) = values(line);
            bytes.extend(scalars(known.get(&step).copied().unwrap_or(now), step, &values));
        }
        let path = folder.join(name);
        let mut file = File::create(&path).context(path.display())?;
        file.write_all(&bytes).context(path.display())?;
        earlier.iter().try_for_each(|path| fs::remove_file(path).context(path.display()))?;
        Ok((path, file))
    }

    /// Appends the numbers of a line of `metrics.jsonl`.
    pub fn write(&mut self, line: &Value) {
        let Some(file) = &mut self.file else { return };
        let (step, values) = values(line);
        if values.is_empty() {
            return;
        }
        let event = scalars(now(), step, &values);
        let written = file.metadata().and_then(|facts| Ok((facts.nlink(), file.write_all(&event)?)));
        let why = match written {
            Ok((links, ())) if links > 0 => return,
            Ok(_) => Error::other("the file was removed"),
            Err(e) => e.into(),
        };
        warn(&silence(&why.context(self.path.display())));
        self.file = None;
    }
}

/// Removes the event files of a run, and their folder if nothing else is in it.
pub fn clear(run: &Path) {
    let folder = run.join(FOLDER);
    // What cannot be removed is no reason to end a run.
    event_files(&folder).iter().for_each(|path| _ = fs::remove_file(path));
    _ = fs::remove_dir(folder);
}

fn silence(why: &Error) -> String {
    format!("{why}: nothing more is written for TensorBoard; metrics.jsonl has all metrics")
}

fn event_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns the step of a line of `metrics.jsonl` and its numbers with their tags: `train/loss` and `eval/loss`, as
/// Hugging Face's `TensorBoardCallback` names them, and `summary/seconds` in a line of the event `summary`.
fn values(line: &Value) -> (u64, Vec<(String, f64)>) {
    let event = line.get("event").and_then(Value::as_str);
    let mut values = Vec::new();
    for (key, value) in line.as_object().into_iter().flatten().filter(|(key, _)| *key != "step") {
        let tag = match (event, key.strip_prefix("eval_")) {
            (Some(event), _) => format!("{event}/{key}"),
            (None, Some(metric)) => format!("eval/{metric}"),
            (None, None) => format!("train/{key}"),
        };
        flatten(tag, value, &mut values);
    }
    (line.get("step").and_then(Value::as_u64).unwrap_or_default(), values)
}

/// Adds a number, or those of a list or an object with their index or key: `summary/peak_bytes/0/total`.
fn flatten(tag: String, value: &Value, values: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => values.extend(number.as_f64().map(|number| (tag, number))),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| flatten(format!("{tag}/{i}"), item, values));
        }
        Value::Object(items) => items.iter().for_each(|(key, item)| flatten(format!("{tag}/{key}"), item, values)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn steps(run: &Path) -> Vec<(f64, u64)> {
        let files = event_files(&run.join(FOLDER));
        assert_eq!(files.len(), 1, "{files:?}");
        times(&fs::read(&files[0]).unwrap()).split_off(2)
    }

    #[test]
    fn tags_are_those_of_hugging_face() {
        let line = json!({"step": 3, "epoch": 0.5, "loss": 2.5, "grad_norm": null});
        assert_eq!(values(&line), (3, vec![("train/epoch".into(), 0.5), ("train/loss".into(), 2.5)]));
        let (_, found) = values(&json!({"step": 3, "eval_loss": 1, "eval_HasAns_f1": 0.25}));
        assert_eq!(found, [("eval/loss".to_owned(), 1.0), ("eval/HasAns_f1".to_owned(), 0.25)]);
        let (_, found) = values(&json!({"event": "summary", "step": 3, "peaks": [1, {"total": 2}]}));
        assert_eq!(found, [("summary/peaks/0".to_owned(), 1.0), ("summary/peaks/1/total".to_owned(), 2.0)]);
    }

    #[test]
    fn a_resumed_run_has_each_step_once_with_its_time() {
        let run = tempfile::tempdir().unwrap();
        let line = |step: u64| json!({"step": step, "loss": 1.0});
        let mut first = TensorBoard::open(run.path(), "host", &[]);
        (1..=3).for_each(|step| first.write(&line(step)));
        let before = steps(run.path());
        assert_eq!(before.iter().map(|event| event.1).collect::<Vec<_>>(), [1, 2, 3]);
        // Step 3 is after the checkpoint, and step 1 was not in it.
        let mut second = TensorBoard::open(run.path(), "host", &[line(2)]);
        second.write(&line(3));
        let after = steps(run.path());
        assert_eq!((after.len(), after[0], after[1].1), (2, before[1], 3));
        assert!(after[1].0 >= before[2].0);
        // A new run in the folder.
        TensorBoard::open(run.path(), "host", &[]);
        assert!(steps(run.path()).is_empty());
        fs::write(run.path().join(FOLDER).join("mine"), "").unwrap();
        clear(run.path());
        assert_eq!(fs::read_dir(run.path().join(FOLDER)).unwrap().count(), 1, "another file stays");
    }

    #[test]
    fn a_run_goes_on_without_its_event_file() {
        let run = tempfile::tempdir().unwrap();
        let line = json!({"step": 1, "loss": 1.0});
        let mut removed = TensorBoard::open(run.path(), "host", &[]);
        fs::remove_dir_all(run.path().join(FOLDER)).unwrap();
        removed.write(&line);
        assert!(removed.file.is_none());
        removed.write(&line);
        // A device that is always full.
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut full = TensorBoard { path: "/dev/full".into(), file: Some(full) };
        full.write(&line);
        assert!(full.file.is_none());
        fs::write(run.path().join(FOLDER), "a file in the folder's place").unwrap();
        assert!(TensorBoard::open(run.path(), "host", &[]).file.is_none());
    }
}
