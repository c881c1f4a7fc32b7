//! Files of records become a checked, tokenised, cached data set.

use super::cache::{self, CacheUse, Facts, VERSION};
use super::collation::Collation;
use super::dataset::Dataset;
use super::example::Example;
use crate::error::{Error, Result};
use crate::text::records;
use crate::text::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;

/// How many reasons for skipped records are kept.
const REASONS: usize = 100;

/// How a task's files become examples.
pub trait Encode {
    /// The files that are read, in an order of its own.
    fn files(&self) -> Vec<&Path>;

    /// All that the examples follow from beside the files' content and the tokenizer, so that no two settings that
    /// matter look alike. Where the files lie is not part of it.
    fn settings(&self) -> String;

    /// Reads, checks and tokenises.
    ///
    /// # Errors
    /// Exit 2: what is wrong with a file or its records.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded>;
}

/// What an [`Encode`] makes of its files.
#[derive(Debug)]
pub struct Encoded {
    /// In the files' order.
    pub examples: Vec<Example>,
    pub collation: Collation,
    /// BLAKE3 of each file that was read, in the order of [`Encode::files`].
    pub hashes: Vec<[u8; 32]>,
    /// The class names by class index, if the labels are classes.
    pub labels: Option<Vec<String>>,
    /// Line and reason of every record left out, in any order.
    pub skipped: Vec<(usize, String)>,
    /// The number of examples cut to the maximum length.
    pub truncated: usize,
    /// What a person has to know beside that, in short phrases.
    pub remarks: Vec<String>,
    /// What the task's metrics and predictions need beside the tensors, in the task's own form.
    pub references: Value,
}

impl Encoded {
    /// Examples of one file that become batches as they are, and of which nothing else is to be known.
    pub fn plain(examples: Vec<Example>, hash: [u8; 32], skipped: Vec<(usize, String)>, truncated: usize) -> Self {
        let (collation, hashes, remarks, references) = (Collation::Plain, vec![hash], Vec::new(), Value::Null);
        Encoded { examples, collation, hashes, labels: None, skipped, truncated, remarks, references }
    }
}

/// A data set, ready for use.
pub struct Prepared {
    /// The examples, in the order of the file.
    pub dataset: Dataset,
    pub facts: Facts,
    /// Whether the cache had it all.
    pub cache: CacheUse,
}

/// Reads, checks and tokenises files with the tokenizer of a model folder, or takes the same from the cache in `cache_dir`,
/// if it is to be kept.
///
/// # Errors
/// Those of [`Encode::encode`] and of [`Tokenizer::from_folder`] (exit 2).
pub fn prepare(encode: &dyn Encode, model_dir: &Path, cache_dir: Option<&Path>) -> Result<Prepared> {
    let hashes = encode.files().into_iter().map(records::hash_file).collect::<Result<Vec<_>>>()?;
    // The debug form quotes strings, so that no two settings can look alike.
    let key = format!("{:?}", (VERSION, &hashes, Tokenizer::fingerprint_of(model_dir)?, encode.settings()));
    let key = *blake3::hash(key.as_bytes()).as_bytes();
    let build = || build(encode, model_dir, &hashes, key);
    let (dataset, facts, cache) = match cache_dir {
        Some(dir) => cache::load_or_build(dir, &key, build)?,
        None => build().map(|(dataset, facts)| (dataset, facts, CacheUse::Built))?,
    };
    Ok(Prepared { dataset, facts, cache })
}

fn build(encode: &dyn Encode, model_dir: &Path, hashes: &[[u8; 32]], key: [u8; 32]) -> Result<(Dataset, Facts)> {
    let tokenizer = Tokenizer::from_folder(model_dir)?;
    let Encoded { examples, collation, hashes: read, labels, mut skipped, truncated, remarks, references } =
        encode.encode(&tokenizer)?;
    let changed = encode.files().into_iter().zip(hashes.iter().zip(&read)).find(|(_, (before, now))| before != now);
    if let Some((path, _)) = changed {
        return Err(Error::input(format!("{}: the file changed while it was read; start again", path.display())));
    }
    skipped.sort_unstable();
    let segments = examples.iter().flat_map(|e| &e.type_ids).max().map_or(1, |&largest| usize::from(largest) + 1);
    let facts = Facts {
        labels,
        skipped: skipped.len(),
        skipped_reasons: skipped.into_iter().take(REASONS).collect(),
        truncated,
        vocab_size: tokenizer.vocab_size(),
        segments,
        remarks,
        references,
    };
    Ok((Dataset::new(examples, collation, key), facts))
}
