//! The shards of a run with `data.streaming`: which files they are, and the state from which a run continues.

use crate::checkpoint::state::{ShardStamp, StreamState};
use crate::config::Config;
use crate::data::shuffle::Shuffle;
use crate::data::stream::{Place, Position};
use crate::error::{Context, Error, Result};
use crate::text::files::Files;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Number of bytes at each end of a shard that are hashed.
const END: u64 = 4096;

/// The shards of the training data, and what their examples depend on.
#[derive(Debug)]
pub struct Shards {
    pub config: Config,
    pub files: Files,
    pub stamps: Vec<ShardStamp>,
    /// The folder of the tokenizer.
    pub folder: PathBuf,
    pub max_length: usize,
    /// The labels in the order of their ids, if the task has labels.
    pub labels: Option<Vec<String>>,
}

impl Shards {
    /// Finds the files of `data.train`.
    ///
    /// # Errors
    /// Exit 2: those of [`Files::find`]; an unreadable file.
    pub fn open(config: &Config, folder: &Path, max_length: usize, labels: Option<Vec<String>>) -> Result<Self> {
        let files = Files::find(config.data.train.paths()).context("data.train")?;
        let stamps = files.iter().map(stamp).collect::<Result<_>>().context("data.train")?;
        Ok(Shards { config: config.clone(), files, stamps, folder: folder.to_owned(), max_length, labels })
    }

    /// Returns the order of the examples.
    pub fn shuffle(&self) -> Shuffle {
        Shuffle::new(self.config.seed, self.config.data.shuffle_buffer_size)
    }

    /// Number of bytes of all shards, as they are on disk.
    pub fn bytes(&self) -> u64 {
        self.stamps.iter().map(|stamp| stamp.bytes).sum()
    }

    /// Checks that a shard is the one that the run began with.
    ///
    /// # Errors
    /// Exit 2: it is not, or cannot be read.
    pub fn check(&self, index: usize) -> Result<()> {
        let path = &self.files.paths()[index];
        if stamp(path)? == self.stamps[index] {
            return Ok(());
        }
        let why = "the shard has changed since the run began: restore it, and resume from the last checkpoint";
        Err(Error::input(format!("{}: {why}", path.display())))
    }

    /// Checks that the shards are those of a checkpoint.
    ///
    /// # Errors
    /// Exit 2, naming the first shard that is not.
    pub fn check_resumed(&self, before: &StreamState) -> Result<()> {
        let (now, before) = (self.stamps.as_slice(), before.shards.as_slice());
        let Some(i) = (0..now.len().max(before.len())).find(|&i| now.get(i) != before.get(i)) else { return Ok(()) };
        let has = |stamps: &[ShardStamp], name: &str| stamps.iter().any(|stamp| stamp.name == name);
        let what = match (before.get(i), now.get(i)) {
            (Some(before), Some(now)) if before.name == now.name => {
                let path = self.files.paths()[i].display();
                match before.bytes == now.bytes {
                    true => format!("{path} has other content"),
                    false => format!("{path} had {} bytes and has {} now", before.bytes, now.bytes),
                }
            }
            (Some(before), _) if !has(now, &before.name) => format!("{} is no longer there", before.name),
            (_, Some(now)) if !has(before, &now.name) => format!("{} is new", self.files.paths()[i].display()),
            _ => format!("shard {} of the list is another one: the order has changed", i + 1),
        };
        Err(Error::input(format!(
            "data.train: the shards are not those of this checkpoint: {what}: restore them, start a new run in another \
             output_dir, or pass --allow-new-data-order to begin a new pass"
        )))
    }

    /// Returns the state from which a run continues on data with this fingerprint: that of a checkpoint with the same
    /// order, else the beginning of a pass.
    pub fn begin(&self, data: &str, before: Option<StreamState>) -> StreamState {
        let Config { seed, data: settings, .. } = &self.config;
        let size = settings.shuffle_buffer_size;
        let is_same = |before: &StreamState| {
            (before.data.as_str(), before.seed, before.shuffle_buffer_size) == (data, *seed, size)
        };
        match before {
            Some(before) if is_same(&before) => before,
            before => StreamState {
                data: data.to_owned(),
                seed: *seed,
                shuffle_buffer_size: size,
                pass: before.map_or(0, |before| before.pass + 1),
                shards: self.stamps.clone(),
                ..StreamState::default()
            },
        }
    }
}

/// Returns the position in a checkpoint's state.
pub fn position(state: &StreamState) -> Position {
    let StreamState { pass, taken, arrived, shard, place, first, .. } = *state;
    Position { pass, taken, arrived, place: Place { shard, offset: place }, first }
}

/// Sets the position in a checkpoint's state.
pub fn advance(state: &mut StreamState, position: Position) {
    let Position { pass, taken, arrived, place, first } = position;
    (state.pass, state.taken, state.arrived) = (pass, taken, arrived);
    (state.shard, state.place, state.first) = (place.shard, place.offset, first);
}

fn stamp(path: &Path) -> Result<ShardStamp> {
    let read = || -> std::io::Result<(u64, blake3::Hasher)> {
        let mut file = File::open(path)?;
        let (bytes, mut hasher) = (file.metadata()?.len(), blake3::Hasher::new());
        hasher.update_reader(Read::by_ref(&mut file).take(END))?;
        file.seek(SeekFrom::Start(bytes.saturating_sub(END)))?;
        hasher.update_reader(file.take(END))?;
        Ok((bytes, hasher))
    };
    let (bytes, hasher) = read().input_context(path.display())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ShardStamp { name, bytes, ends: hasher.finalize().to_hex()[..16].to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(folder: &Path) -> Shards {
        let train = format!("data.train={}", folder.display());
        let words =
            ["output_dir=o", "model.path=m", "task.kind=causal-lm", "streaming=true", "max_steps=1", train.as_str()];
        let config = Config::load(None, &words.map(str::to_owned)).unwrap();
        Shards::open(&config, folder, 8, None).unwrap()
    }

    #[test]
    fn shards_that_differ_from_the_checkpoint_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let remove = |name: &str| std::fs::remove_file(dir.path().join(name)).unwrap();
        ["a.jsonl", "b.jsonl", "c.jsonl"].iter().for_each(|name| write(name, "{\"text\": \"a\"}\n"));
        let run = shards(dir.path());
        let state = run.begin("d", None);
        assert_eq!((run.bytes(), state.shards.len()), (42, 3));
        let message = || shards(dir.path()).check_resumed(&state).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(message(), "");
        write("b.jsonl", "{\"text\": \"b\"}\n");
        assert!(message().contains("b.jsonl has other content: restore"), "{}", message());
        write("b.jsonl", "{\"text\": \"bb\"}\n");
        assert!(message().contains("b.jsonl had 14 bytes and has 15 now"), "{}", message());
        assert!(run.check(1).unwrap_err().to_string().contains("b.jsonl: the shard has changed since the run began"));
        assert!(run.check(0).is_ok());
        remove("b.jsonl");
        assert!(message().contains("b.jsonl is no longer there"), "{}", message());
        assert!(run.check(1).unwrap_err().to_string().contains("b.jsonl"));
        write("b.jsonl", "{\"text\": \"a\"}\n");
        assert_eq!(message(), "");
        write("aa.jsonl", "{}\n");
        assert!(message().contains("aa.jsonl is new"), "{}", message());
        let mut other = state.clone();
        other.shards.swap(0, 2);
        remove("aa.jsonl");
        let error = shards(dir.path()).check_resumed(&other).unwrap_err().to_string();
        assert!(error.contains("the order has changed"), "{error}");
    }

    #[test]
    fn a_run_continues_only_with_the_same_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.jsonl"), "{}\n").unwrap();
        let run = shards(dir.path());
        let mut state = run.begin("d", None);
        let place = Place { shard: 1, offset: 70 };
        let at = Position { pass: 3, taken: 50, arrived: 60, place, first: 40 };
        advance(&mut state, at);
        assert_eq!(position(&state), at);
        assert_eq!(run.begin("d", Some(state.clone())), state);
        let new_pass = Position { pass: 4, ..Position::default() };
        assert_eq!(position(&run.begin("e", Some(state.clone()))), new_pass);
        let other_seed = StreamState { seed: 1, ..state };
        assert_eq!(position(&run.begin("d", Some(other_seed))), new_pass);
    }
}
