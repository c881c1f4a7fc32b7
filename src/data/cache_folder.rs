//! The files of the token cache: what they are, and the removal of those that nobody uses.

use super::cache::{self, COMPLETE, Description, Origin, UNFINISHED, VERSION};
use super::collation::Collation;
use super::dataset::LabelKind;
use crate::error::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Hexadecimal digits of a key.
const DIGITS: usize = 64;

/// A file of the cache.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: PathBuf,
    pub bytes: u64,
    pub last_used: SystemTime,
    pub state: State,
    /// `None` for a file that this version does not read.
    pub content: Option<Content>,
}

/// What a complete file contains.
#[derive(Debug, Clone)]
pub struct Content {
    /// The task (`task.kind`) for which it was made; "prediction" for texts without labels.
    pub task: &'static str,
    pub examples: usize,
    pub tokens: usize,
    pub origin: Origin,
}

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Usable, and used by no process.
    Ready,
    /// A process uses it, or writes it.
    InUse,
    /// Of another version of the program, which this one does not use, or unreadable.
    OtherVersion,
    /// Left by a process that ended while writing it.
    Unfinished,
}

/// The result of trying to lock a file for removal.
enum Lock {
    Held(File),
    InUse,
    /// The file system has no locks, or the file belongs to somebody else.
    Unknown(std::io::Error),
}

/// Returns the files of a cache folder, those that were used last first. A folder that does not exist has none.
///
/// # Errors
/// An unreadable folder (exit 2).
pub fn list(folder: &Path) -> Result<Vec<Entry>> {
    let read = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.input_context(folder.display())?,
    };
    let paths = read.collect::<std::io::Result<Vec<_>>>().input_context(folder.display())?;
    // A file that vanishes meanwhile is none.
    let mut entries: Vec<Entry> = paths.iter().filter_map(|file| entry(file.path())).collect();
    entries.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.path.cmp(&b.path)));
    Ok(entries)
}

/// Removes a file, unless a process uses or writes it; returns why it stays.
pub fn remove(entry: &Entry) -> Option<String> {
    // The lock is held until the file is gone.
    let _held = match lock(&entry.path)? {
        Lock::Held(file) => file,
        Lock::InUse => return Some("in use".into()),
        Lock::Unknown(e) => return Some(format!("whether it is in use is unknown ({e})")),
    };
    std::fs::remove_file(&entry.path).err().filter(|e| e.kind() != ErrorKind::NotFound).map(|e| e.to_string())
}

/// Returns whether a file was not used for at least this long.
pub fn is_unused_for(entry: &Entry, time: Duration) -> bool {
    // By another host's clock the last use may be in the future.
    let is_old = time.is_zero() || entry.last_used.elapsed().is_ok_and(|elapsed| elapsed >= time);
    is_old && entry.state != State::InUse
}

/// Describes a file; `None` if it is not a file of the cache.
fn entry(path: PathBuf) -> Option<Entry> {
    let is_complete = match path.extension()?.to_str()? {
        COMPLETE => true,
        UNFINISHED => false,
        _ => return None,
    };
    let key = path.file_name()?.to_str()?.split('.').next()?;
    if key.len() != DIGITS || !key.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let metadata = path.metadata().ok()?;
    let description = File::open(&path).ok().filter(|_| is_complete).and_then(|file| cache::describe(&file).ok());
    let content = description.map(content).filter(|content| content.origin.version == VERSION);
    let state = match (lock(&path)?, &content) {
        (Lock::InUse, _) => State::InUse,
        (_, Some(_)) => State::Ready,
        (_, None) if is_complete => State::OtherVersion,
        (_, None) => State::Unfinished,
    };
    Some(Entry { bytes: metadata.len(), last_used: metadata.modified().ok()?, state, content, path })
}

fn content(description: Description) -> Content {
    let Description { examples, tokens, several, shape, origin } = description;
    let task = match (shape.collation, shape.labels) {
        (Collation::Masked(_), _) => "masked-lm",
        (Collation::SourceTarget { .. }, _) => "seq2seq",
        (Collation::NextToken, LabelKind::Tokens) => "chat",
        (Collation::NextToken, _) => "causal-lm",
        (Collation::Plain, LabelKind::Class) if several => "multiple-choice",
        (Collation::Plain, LabelKind::Class) => "sequence-classification",
        (Collation::Plain, LabelKind::Flags(_)) => "multi-label",
        (Collation::Plain, LabelKind::Value) => "regression",
        (Collation::Plain, LabelKind::Span) => "question-answering",
        (Collation::Plain, LabelKind::Tokens | LabelKind::TokensAndClass) => "token-classification",
        (Collation::Plain, LabelKind::None) => "prediction",
    };
    Content { task, examples, tokens, origin }
}

/// Locks a file that nobody else has locked; `None` if it does not exist.
fn lock(path: &Path) -> Option<Lock> {
    // NFS has exclusive locks only for files that are open for writing.
    let file = OpenOptions::new().read(true).write(true).open(path).or_else(|_| File::open(path));
    let file = match file {
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        Err(e) => return Some(Lock::Unknown(e)),
        Ok(file) => file,
    };
    Some(match file.try_lock() {
        Ok(()) => Lock::Held(file),
        Err(TryLockError::WouldBlock) => Lock::InUse,
        Err(TryLockError::Error(e)) => Lock::Unknown(e),
    })
}

#[cfg(test)]
mod tests {
    use super::super::cache::{CacheUse, Facts, load_or_build};
    use super::super::dataset::Dataset;
    use super::super::example::{Example, Label};
    use super::*;

    /// Stores a data set of two examples under this key; it is in use as long as the result lives.
    fn store(dir: &Path, key: u8, label: Label, version: u32) -> Dataset {
        let build = || {
            let example = |n: u32| Example::single((0..n).collect(), vec![0; n as usize], label.clone());
            let facts = Facts {
                labels: None,
                skipped: 0,
                skipped_reasons: Vec::new(),
                truncated: 0,
                vocab_size: 9,
                segments: 1,
                remarks: Vec::new(),
                references: serde_json::Value::Null,
            };
            Ok((Dataset::new([example(3), example(4)], Collation::Plain, [key; 32]), facts))
        };
        let origin = Origin { files: vec!["/data/a.jsonl".into()], tokenizer: "/models/b".into(), version };
        let (dataset, _, used) = load_or_build(dir, &[key; 32], &origin, build).unwrap();
        assert_eq!(used, CacheUse::Built);
        dataset
    }

    fn states(dir: &Path) -> Vec<State> {
        list(dir).unwrap().into_iter().map(|entry| entry.state).collect()
    }

    #[test]
    fn entries_say_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(&dir.path().join("none")).unwrap().is_empty());
        drop(store(dir.path(), 1, Label::Value(0.5), VERSION));
        std::fs::write(dir.path().join("notes.txt"), "of somebody").unwrap();
        std::fs::write(dir.path().join("short.tok"), "not a key").unwrap();
        let entries = list(dir.path()).unwrap();
        let [Entry { state: State::Ready, content: Some(content), bytes, path, .. }] = &entries[..] else {
            panic!("{entries:?}")
        };
        assert_eq!((content.task, content.examples, content.tokens), ("regression", 2, 7));
        assert_eq!(content.origin.files, ["/data/a.jsonl"]);
        assert_eq!(*bytes, path.metadata().unwrap().len());
        std::fs::write(path, "TRNTOKEN").unwrap();
        assert_eq!(states(dir.path()), [State::OtherVersion]);
    }

    #[test]
    fn a_file_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let used = store(dir.path(), 1, Label::None, VERSION);
        let entries = list(dir.path()).unwrap();
        assert_eq!(states(dir.path()), [State::InUse]);
        assert!(!is_unused_for(&entries[0], Duration::ZERO));
        assert_eq!(remove(&entries[0]).as_deref(), Some("in use"));
        drop(used);
        assert_eq!(states(dir.path()), [State::Ready]);
        assert_eq!(remove(&entries[0]), None);
        assert_eq!(remove(&entries[0]), None, "another process may be faster");
        assert!(states(dir.path()).is_empty());
    }

    #[test]
    fn files_that_are_written_stay_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{}.12-00ff.tmp", "ab".repeat(32)));
        let writing = File::create(&path).unwrap();
        writing.try_lock().unwrap();
        assert_eq!(states(dir.path()), [State::InUse]);
        assert!(remove(&list(dir.path()).unwrap()[0]).is_some());
        drop(writing);
        assert_eq!(states(dir.path()), [State::Unfinished]);
        assert_eq!(remove(&list(dir.path()).unwrap()[0]), None);
        assert!(!path.exists());
    }

    #[test]
    fn the_last_use_decides() {
        let dir = tempfile::tempdir().unwrap();
        drop(store(dir.path(), 1, Label::Class(1), VERSION));
        drop(store(dir.path(), 2, Label::None, VERSION - 1));
        assert!(states(dir.path()).contains(&State::OtherVersion));
        let day = Duration::from_secs(86400);
        let path = |key: u8| dir.path().join(format!("{}.tok", blake3::Hash::from_bytes([key; 32]).to_hex()));
        let old = SystemTime::now() - 3 * day;
        File::options().write(true).open(path(1)).unwrap().set_modified(old).unwrap();
        let unused = |time| -> Vec<PathBuf> {
            let entries = list(dir.path()).unwrap();
            entries.into_iter().filter(|entry| is_unused_for(entry, time)).map(|entry| entry.path).collect()
        };
        assert_eq!(unused(2 * day), [path(1)]);
        assert!(unused(4 * day).is_empty());
        assert_eq!(unused(Duration::ZERO), [path(2), path(1)]);
    }
}
