//! From record files to a checked, tokenized, cached data set.

use super::cache::{self, CacheUse, Facts, Origin, VERSION};
use super::collation::Collation;
use super::dataset::Dataset;
use super::example::Example;
use crate::error::{Error, Result};
use crate::text::files::{Files, split};
use crate::text::records;
use crate::text::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;

/// Maximum number of reasons for skipped records to keep.
const REASONS: usize = 100;

/// Encodes a task's files as examples.
pub trait Encode {
    /// The files of the records, and which of these are read.
    fn files(&self) -> &Files;

    /// Files that are read beside them, such as the targets of their lines.
    fn files_beside(&self) -> Option<&Files> {
        None
    }

    /// Everything that the examples depend on beside the files' content and the tokenizer, in a form in which different
    /// settings differ. File paths are not part of it.
    fn settings(&self) -> String;

    /// Reads, checks and tokenizes.
    ///
    /// # Errors
    /// Exit 2: an invalid file or record.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded>;
}

/// The result of [`Encode::encode`].
#[derive(Debug)]
pub struct Encoded {
    /// In the order of the files.
    pub examples: Vec<Example>,
    pub collation: Collation,
    /// BLAKE3 of each file that was read, in the order of [`Encode::files`], then [`Encode::files_beside`].
    pub hashes: Vec<[u8; 32]>,
    /// The class names by class index, if the labels are classes.
    pub labels: Option<Vec<String>>,
    /// Line and reason of every skipped record, in any order.
    pub skipped: Vec<(usize, String)>,
    /// Number of examples truncated to the maximum length.
    pub truncated: usize,
    /// Further remarks for the user, in short phrases.
    pub remarks: Vec<String>,
    /// Data that the task's metrics and predictions need beside the tensors, in the task's own form.
    pub references: Value,
    pub extras: Extras,
}

/// What examples have beside tokens and labels.
#[derive(Debug, Default)]
pub struct Extras {
    /// The marks of each example's words ([`crate::text::words`]); empty if they are not read.
    pub words: Vec<Vec<u8>>,
    /// The weight of each example in the loss; empty if all have the same.
    pub weights: Vec<f32>,
    /// Number of examples of each source, in the order of the examples; empty if there is one.
    pub sources: Vec<usize>,
}

impl Encoded {
    /// Returns plain examples without labels or remarks.
    pub fn plain(
        examples: Vec<Example>,
        hashes: Vec<[u8; 32]>,
        skipped: Vec<(usize, String)>,
        truncated: usize,
    ) -> Self {
        let (collation, remarks, references) = (Collation::Plain, Vec::new(), Value::Null);
        let extras = Extras::default();
        Encoded { examples, collation, hashes, labels: None, skipped, truncated, remarks, references, extras }
    }
}

/// A data set, ready for use.
pub struct Prepared {
    /// The examples, in the order of the file.
    pub dataset: Dataset,
    pub facts: Facts,
    pub cache: CacheUse,
}

/// Reads, checks and tokenizes files with the tokenizer of a model folder, or loads the result from the cache in
/// `cache_dir`, if given.
///
/// # Errors
/// Those of [`Encode::encode`] and of [`Tokenizer::from_folder`] (exit 2).
pub fn prepare(encode: &dyn Encode, model_dir: &Path, cache_dir: Option<&Path>) -> Result<Prepared> {
    let hashes = paths(encode).map(records::hash_file).collect::<Result<Vec<_>>>()?;
    // The debug format quotes strings, so different settings have different texts.
    let names = names(encode);
    let mut key = format!("{:?}", (VERSION, &hashes, &names, Tokenizer::fingerprint_of(model_dir)?, encode.settings()));
    key.extend(encode.files().part().map(|part| format!("{part:?}")));
    let key = *blake3::hash(key.as_bytes()).as_bytes();
    let build = || build(encode, model_dir, (&hashes, &names), key);
    let (dataset, facts, cache) = match cache_dir {
        Some(dir) => cache::load_or_build(dir, &key, &origin(encode, model_dir), build)?,
        None => build().map(|(dataset, facts)| (dataset, facts, CacheUse::Built))?,
    };
    Ok(Prepared { dataset, facts, cache })
}

/// Returns the paths of all files, in the order of [`Encoded::hashes`].
fn paths(encode: &dyn Encode) -> impl Iterator<Item = &Path> {
    encode.files().iter().chain(encode.files_beside().into_iter().flat_map(Files::iter))
}

fn origin(encode: &dyn Encode, model_dir: &Path) -> Origin {
    let text = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into()).to_string_lossy().into_owned();
    Origin { files: paths(encode).map(text).collect(), tokenizer: text(model_dir), version: VERSION }
}

/// Returns the names of the files, if there are several: messages about records name the file too.
fn names(encode: &dyn Encode) -> Vec<String> {
    let several = paths(encode).count() > 1;
    let names = paths(encode).filter(|_| several).filter_map(Path::file_name);
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Returns the line of a skipped record in its file, and the reason, with the file's name.
fn with_name((number, why): (usize, String), names: &[String]) -> (usize, String) {
    let (file, line) = split(number);
    (line, names.get(file).map_or_else(|| why.clone(), |name| format!("{why} ({name})")))
}

fn build(
    encode: &dyn Encode,
    model_dir: &Path,
    (hashes, names): (&[[u8; 32]], &[String]),
    key: [u8; 32],
) -> Result<(Dataset, Facts)> {
    let tokenizer = Tokenizer::from_folder(model_dir)?;
    let encoded = encode.encode(&tokenizer)?;
    let changed = paths(encode).zip(hashes.iter().zip(&encoded.hashes)).find(|(_, (before, now))| before != now);
    if let Some((path, _)) = changed {
        return Err(Error::input(format!("{}: the file changed while it was read; start again", path.display())));
    }
    Ok(assemble(encoded, names, key))
}

/// Collects what was encoded into a data set with this fingerprint; `names` are those of several files.
pub fn assemble(encoded: Encoded, names: &[String], key: [u8; 32]) -> (Dataset, Facts) {
    let Encoded { examples, collation, labels, mut skipped, truncated, remarks, references, extras, .. } = encoded;
    skipped.sort_unstable();
    let segments = examples.iter().flat_map(|e| &e.type_ids).max().map_or(1, |&largest| usize::from(largest) + 1);
    let largest = examples.iter().flat_map(|e| &e.ids).max().map_or(0, |&id| id as usize);
    let sampled = match &collation {
        Collation::Masked(masking) => masking.vocab_size.max(masking.mask + 1),
        Collation::SourceTarget { start } => start + 1,
        Collation::Plain | Collation::NextToken => 0,
    };
    let facts = Facts {
        labels,
        skipped: skipped.len(),
        skipped_reasons: skipped.into_iter().take(REASONS).map(|bad| with_name(bad, names)).collect(),
        truncated,
        vocab_size: (largest + 1).max(sampled as usize),
        segments,
        remarks,
        references,
    };
    let mut dataset = Dataset::new(examples, collation, key);
    if !extras.words.is_empty() {
        dataset = dataset.with_words(extras.words);
    }
    if !extras.weights.is_empty() {
        dataset = dataset.with_weights(extras.weights);
    }
    if !extras.sources.is_empty() {
        dataset = dataset.with_sources(extras.sources);
    }
    (dataset, facts)
}
