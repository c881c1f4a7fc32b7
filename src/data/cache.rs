//! The token cache: a data set is tokenized once and then memory-mapped.
//!
//! A file holds one [`Dataset`] and is named by its key, the hash of all inputs of the content, so an entry never
//! becomes stale; any file may be deleted at any time. Layout, numbers in native byte order (a file of the other byte
//! order has an unknown version and is rebuilt):
//!
//! | bytes     | content |
//! |-----------|---------|
//! | 0..8      | magic `TRNTOKEN` |
//! | 8..12     | format version, u32 |
//! | 12..44    | BLAKE3 of every byte from 44 on |
//! | 44..76    | key |
//! | 80..224   | start and end of each section, u64 |
//! | 256..     | sections, each on a multiple of 64, zeros between them |
//!
//! Sections: offsets (u64, one more than examples), ids (u32), segments (u8), the examples' first sequences (u64) and
//! the sequences' lengths (u32; both empty when every example has one), labels (u32), JSON of what the numbers mean,
//! of [`Facts`] and of [`Origin`], marks of words (u8; empty without augmentation), and the examples' weights (u32, the
//! bits of f32; empty when all have the same).
//!
//! A process that uses a file holds a shared lock on it, and one that writes a file an exclusive lock on the temporary
//! file: [`super::cache_folder`] removes neither. Nothing else depends on locks, which some file systems lack.

use super::column::{Column, MappedFile};
use super::dataset::{Columns, Dataset, Shape};
use crate::error::{Context, Error, Result};
use memmap2::Mmap;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"TRNTOKEN";
/// Changes with the tokenization; part of every key, and so of the fingerprints in checkpoints.
pub const VERSION: u32 = 5;
/// Changes with the layout of the file.
const LAYOUT: u32 = 7;
const HASH: Range<usize> = 12..44;
const KEY: Range<usize> = 44..76;
const TABLE: usize = 80;
const SECTIONS: usize = 9;
const HEADER: usize = TABLE + 16 * SECTIONS;
const ALIGN: usize = 64;
/// The section with JSON.
const JSON: usize = 6;
/// Extensions of complete and of unfinished files.
pub(super) const COMPLETE: &str = "tok";
pub(super) const UNFINISHED: &str = "tmp";

/// Information about a data set beside its examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The class names by class index, if the labels are classes.
    pub labels: Option<Vec<String>>,
    /// Number of skipped records.
    pub skipped: usize,
    /// Line and reason of the first skipped records (at most 100).
    pub skipped_reasons: Vec<(usize, String)>,
    /// Number of examples truncated to the maximum length.
    pub truncated: usize,
    /// Number of rows that the embedding matrix needs for the tokens of the examples, and those that replace them.
    pub vocab_size: usize,
    /// Number of rows that the segment embeddings need for the examples.
    pub segments: usize,
    /// Further remarks for the user, in short phrases.
    pub remarks: Vec<String>,
    /// Data that the task's metrics and predictions need besides the tensors, such as reference texts, in the task's
    /// own form.
    pub references: Value,
}

/// The files from which a cache file was made first; those of other runs with the same content may be elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The data files, as absolute paths.
    pub files: Vec<String>,
    /// The folder of the tokenizer.
    pub tokenizer: String,
    /// [`VERSION`] of the program that made it.
    pub version: u32,
}

/// Whether a data set was in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// Mapped from the cache.
    Hit,
    /// Tokenized now.
    Built,
}

/// Returns the cache folder: the given one, or the default.
pub fn folder(given: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(default_dir)
}

/// Returns `$XDG_CACHE_HOME/trainer/tokens` or `~/.cache/trainer/tokens`; `None` if neither variable is set.
pub fn default_dir() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("trainer/tokens"))
}

/// Loads the data set of this key from the cache, or builds and stores it. Processes may race: each writes its own
/// temporary file and renames it.
///
/// An unusable cache never stops a run: a damaged file is rebuilt, and with an unwritable folder the data set stays in
/// memory, each with a warning.
///
/// # Errors
/// Those of `build`.
pub fn load_or_build(
    dir: &Path,
    key: &[u8; 32],
    origin: &Origin,
    build: impl FnOnce() -> Result<(Dataset, Facts)>,
) -> Result<(Dataset, Facts, CacheUse)> {
    let path = dir.join(format!("{}.{COMPLETE}", blake3::Hash::from_bytes(*key).to_hex()));
    match open(&path, key) {
        Ok(Some((dataset, facts))) => return Ok((dataset, facts, CacheUse::Hit)),
        Ok(None) => {}
        Err(e) => tracing::warn!("{}: {e}; tokenizing again", path.display()),
    }
    let (dataset, facts) = build()?;
    // Uses the mapped file instead of the memory just filled: ranks of one host share its pages.
    match write(&path, key, (&dataset, &facts, origin)).and_then(|()| open(&path, key)) {
        Ok(Some((dataset, facts))) => return Ok((dataset, facts, CacheUse::Built)),
        Ok(None) => {}
        Err(e) => tracing::warn!("{}: not cached, the next start will tokenize again: {e}", path.display()),
    }
    Ok((dataset, facts, CacheUse::Built))
}

/// Loads the data set of a cache file; `None` if the file does not exist.
fn open(path: &Path, key: &[u8; 32]) -> Result<Option<(Dataset, Facts)>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // Blocks only while `cache_folder` looks at the file.
    _ = file.lock_shared();
    // The time of the last use. Only the owner of the file may set it.
    _ = file.set_modified(SystemTime::now());
    // SAFETY: a cache file is never written under its final name, only replaced or deleted; neither changes the mapped
    // file.
    let map = unsafe { Mmap::map(&file) }?;
    let map = Arc::new(MappedFile::new(map, file));
    let damaged = |what: &str| Error::other(format!("the cache file is damaged ({what})"));
    let section = sections(&map)?;
    if *blake3::hash(&map[HASH.end..]).as_bytes() != map[HASH] || map[KEY] != key[..] {
        return Err(damaged("its hash differs"));
    }
    let section = |i: usize| section[i].clone();
    let short = |i| Column::<u32>::mapped(&map, section(i));
    let long = |i| Column::<u64>::mapped(&map, section(i));
    let columns = || {
        Some(Columns {
            offsets: long(0)?,
            ids: short(1)?,
            type_ids: Column::mapped(&map, section(2))?,
            sequences: long(3)?,
            lengths: short(4)?,
            labels: short(5)?,
            words: Column::mapped(&map, section(7))?,
            weights: short(8)?,
        })
    };
    let columns = columns().ok_or_else(|| damaged("its sections"))?;
    let json = map.get(section(JSON)).ok_or_else(|| damaged("its description"))?;
    let (shape, facts, _): (Shape, Facts, Origin) = serde_json::from_slice(json)?;
    Ok(Some((Dataset::of(columns, shape, *key), facts)))
}

/// Returns the place of each section, by the start of a file.
fn sections(start: &[u8]) -> Result<[Range<usize>; SECTIONS]> {
    if start.len() < HEADER || start[..8] != MAGIC[..] {
        return Err(Error::other("the cache file is damaged (no header)"));
    }
    let version = u32::from_ne_bytes(std::array::from_fn(|i| start[8 + i]));
    if version != LAYOUT {
        return Err(Error::other(format!("the cache file has version {version}, not {LAYOUT}")));
    }
    let u64_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| start[at + i])) as usize;
    Ok(std::array::from_fn(|i| u64_at(TABLE + 16 * i)..u64_at(TABLE + 16 * i + 8)))
}

/// What a cache file says about itself.
pub(super) struct Description {
    pub examples: usize,
    pub tokens: usize,
    /// Whether examples have several sequences.
    pub several: bool,
    pub shape: Shape,
    pub origin: Origin,
}

/// Reads the description of a cache file, without the examples and without checking its hash.
pub(super) fn describe(file: &File) -> Result<Description> {
    let mut start = [0; HEADER];
    file.read_exact_at(&mut start, 0)?;
    let sections = sections(&start)?;
    let numbers = |i: usize, size: usize| sections[i].len() / size;
    // No more than the file has, whatever a damaged header says.
    let mut json = vec![0; sections[JSON].len().min(file.metadata()?.len() as usize)];
    file.read_exact_at(&mut json, sections[JSON].start as u64)?;
    let (shape, _, origin): (Shape, IgnoredAny, Origin) = serde_json::from_slice(&json)?;
    let (examples, tokens, several) = (numbers(0, 8).saturating_sub(1), numbers(1, 4), numbers(4, 4) > 0);
    Ok(Description { examples, tokens, several, shape, origin })
}

/// Writes a cache file: complete and flushed under a temporary name, then renamed.
fn write(path: &Path, key: &[u8; 32], content: (&Dataset, &Facts, &Origin)) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).context(dir.display())?;
    let unique = RandomState::new().build_hasher().finish();
    let temporary = path.with_extension(format!("{}-{unique:016x}.{UNFINISHED}", std::process::id()));
    let written = File::create_new(&temporary).map_err(Error::from).and_then(|mut file| {
        _ = file.try_lock();
        write_to(&mut file, key, content)?;
        Ok(std::fs::rename(&temporary, path)?)
    });
    if written.is_err() {
        // The file may not exist; the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_to(file: &mut File, key: &[u8; 32], (dataset, facts, origin): (&Dataset, &Facts, &Origin)) -> Result<()> {
    let json = serde_json::to_vec(&(&dataset.shape, facts, origin))?;
    let Columns { offsets, ids, type_ids, sequences, lengths, labels, words, weights } = dataset.columns.as_ref();
    let [offsets, ids, type_ids] = [offsets.bytes(), ids.bytes(), type_ids.bytes()];
    let [sequences, lengths, labels] = [sequences.bytes(), lengths.bytes(), labels.bytes()];
    let sections: [&[u8]; SECTIONS] =
        [offsets, ids, type_ids, sequences, lengths, labels, &json, words.bytes(), weights.bytes()];

    let mut header = [&MAGIC[..], &LAYOUT.to_ne_bytes(), &[0; 32], key, &[0; 4]].concat();
    let padding = |length: usize| &[0; ALIGN][..length.next_multiple_of(ALIGN) - length];
    let mut parts = vec![padding(HEADER)];
    let mut end = HEADER;
    for section in sections {
        let start = end.next_multiple_of(ALIGN);
        end = start + section.len();
        header.extend([start, end].into_iter().flat_map(|at| (at as u64).to_ne_bytes()));
        parts.extend([section, padding(section.len())]);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[HASH.end..]);
    for part in &parts {
        hasher.update(part);
    }
    header[HASH].copy_from_slice(hasher.finalize().as_bytes());
    file.write_all(&header)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::super::collation::Collation;
    use super::super::example::{Example, Label};
    use super::*;
    use std::cell::Cell;

    const KEY: [u8; 32] = [9; 32];

    fn build() -> Result<(Dataset, Facts)> {
        let example = |i: u32| Example {
            ids: (0..i).collect(),
            type_ids: (0..i).map(|t| (t % 2) as u8).collect(),
            lengths: if i > 1 { vec![1, i - 1] } else { vec![i] },
            label: Label::Value(i as f32 / 7.0),
        };
        let meta = Facts {
            labels: Some(vec!["neg".into(), "pos".into()]),
            skipped: 1,
            skipped_reasons: vec![(3, "no column".into())],
            truncated: 2,
            vocab_size: 30522,
            segments: 2,
            remarks: vec!["some were empty".into()],
            references: serde_json::json!(["a", 1]),
        };
        let words = (0..50).map(|i| vec![(i % 4) as u8; i]);
        let data = Dataset::new((0..50).map(example), Collation::NextToken, KEY);
        Ok((data.with_words(words).with_weights((0..50).map(|i| i as f32 / 3.0)), meta))
    }

    fn same(data: &Dataset) {
        let (expected, _) = build().unwrap();
        assert_eq!((data.len(), data.fingerprint()), (expected.len(), KEY));
        assert_eq!(data.collation(), expected.collation());
        for i in 0..data.len() {
            assert_eq!((data.ids(i), data.type_ids(i)), (expected.ids(i), expected.type_ids(i)));
            assert_eq!((data.label(i), data.sequences(i)), (expected.label(i), expected.sequences(i)));
            assert_eq!((data.words(i), data.weight(i)), (expected.words(i), expected.weight(i)));
        }
    }

    /// Loads with [`build`]; returns whether the cache hit, and how often it built.
    fn load(dir: &Path) -> (CacheUse, usize) {
        let built = Cell::new(0);
        let counted = || {
            built.set(built.get() + 1);
            build()
        };
        let (data, meta, used) = load_or_build(dir, &KEY, &Origin::default(), counted).unwrap();
        same(&data);
        assert_eq!(meta, build().unwrap().1);
        (used, built.get())
    }

    fn entry(dir: &Path) -> PathBuf {
        let files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(files.len() == 1 && files[0].extension().unwrap() == "tok", "{files:?}");
        files[0].clone()
    }

    #[test]
    fn the_second_load_is_a_hit() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        assert_eq!(load(&nested), (CacheUse::Built, 1));
        assert_eq!(load(&nested), (CacheUse::Hit, 0));
        entry(&nested);
        let other = load_or_build(&nested, &[8; 32], &Origin::default(), build).unwrap();
        assert_eq!(other.2, CacheUse::Built, "another key");
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        load(dir.path());
        let path = entry(dir.path());
        let sound = std::fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(7) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(open(&path, &KEY).is_err(), "byte {at}");
        }
        for length in [0, 7, 100, 200, sound.len() - 1] {
            std::fs::write(&path, &sound[..length]).unwrap();
            assert_eq!(load(dir.path()), (CacheUse::Built, 1), "truncated to {length}");
            assert_eq!(std::fs::read(entry(dir.path())).unwrap(), sound);
        }
        assert_eq!(load(dir.path()), (CacheUse::Hit, 0));
    }

    #[test]
    fn an_entry_under_another_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        load(dir.path());
        assert!(open(&entry(dir.path()), &[8; 32]).is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        assert_eq!(load(&file.join("tokens")), (CacheUse::Built, 1));
    }

    #[test]
    fn racing_builders_all_succeed() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| load(dir.path()))));
        });
        entry(dir.path());
        assert_eq!(load(dir.path()), (CacheUse::Hit, 0));
    }

    #[test]
    fn errors_of_the_builder_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_or_build(dir.path(), &KEY, &Origin::default(), || Err(Error::input("bad data"))).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
