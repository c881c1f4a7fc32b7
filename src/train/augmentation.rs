//! Augmentation of the training data, from the configuration.

use crate::config::{AugmentConfig, Config, TaskKind};
use crate::data::Prepared;
use crate::data::augment::{Augmentation, Rates};
use crate::error::{Context, Error, Result};
use crate::text::records::hash_file;
use crate::text::special_tokens::Special;
use crate::text::synonyms::Synonyms;
use crate::text::tokenizer::Tokenizer;
use crate::text::words::WordTokenizer;
use std::path::Path;

/// Returns training data whose examples change in each epoch as `[augment]` says. `folder` has the tokenizer, and
/// `max_length` is the maximum number of tokens of an example. The synonyms' content becomes part of the fingerprint.
///
/// # Errors
/// Exit 2: a tokenizer that does not split texts into words, or has no mask token, where that is needed; those of
/// [`Synonyms::read`].
pub fn augmented(config: &Config, train: Prepared, folder: &Path, max_length: usize) -> Result<Prepared> {
    let AugmentConfig { replace, insert, swap, delete, mask, synonyms } = &config.augment;
    let rates = Rates { replace: *replace, insert: *insert, swap: *swap, delete: *delete, mask: *mask };
    let tokenizer = Tokenizer::from_folder(folder)?;
    let impossible = |key: &str, why: &str| Error::input(format!("augment.{key}: {}: {why}", folder.display()));
    // The words of tagged data are those of the file.
    let words = (config.task.kind == TaskKind::TokenClassification).then(|| WordTokenizer::new(&tokenizer));
    let of_words = config.augment.rates().into_iter().find(|(key, rate)| *key != "mask" && *rate > 0.0);
    if let Some((key, _)) = of_words.filter(|_| words.is_none() && !tokenizer.has_words()) {
        return Err(impossible(key, "the tokenizer does not split texts into words; only augment.mask works with it"));
    }
    let mask = match tokenizer.special(Special::Mask) {
        Some(mask) => mask,
        None if rates.mask > 0.0 => {
            let why =
                "the tokenizer has no mask token: name it as \"mask_token\" in tokenizer_config.json, or remove it";
            return Err(impossible("mask", why));
        }
        None => 0,
    };
    let forms = |phrase: &str| match &words {
        Some(words) => words.forms(phrase),
        None => tokenizer.forms(phrase),
    };
    let [within, first] = forms("a")?;
    let (mut train, mut fingerprint) = (train, blake3::Hasher::new());
    fingerprint.update(&train.dataset.fingerprint());
    let read = |path: &Path| -> Result<Synonyms> {
        fingerprint.update(&hash_file(path)?);
        Synonyms::read(path, forms)
    };
    let synonyms = synonyms.as_deref().map(read).transpose().context("augment.synonyms")?;
    let own = train.dataset.fingerprint();
    let fingerprint = if synonyms.is_some() { *fingerprint.finalize().as_bytes() } else { own };
    let largest = [mask, synonyms.as_ref().map_or(0, Synonyms::largest_id)].into_iter().max().unwrap_or_default();
    train.facts.vocab_size = train.facts.vocab_size.max(largest as usize + 1);
    let alike = within == first;
    let augmentation = Augmentation { rates, seed: config.seed, max_length, mask, synonyms, alike };
    Ok(Prepared { dataset: train.dataset.with_augmentation(augmentation, fingerprint), ..train })
}

/// Describes augmentation for the header of a run.
pub fn describe(config: &AugmentConfig) -> Option<String> {
    let rates = config.rates().into_iter().filter(|(_, rate)| *rate > 0.0);
    let rates: Vec<String> = rates.map(|(key, rate)| format!("{key} {rate}")).collect();
    let synonyms = config.synonyms.as_ref().map(|path| format!("; synonyms of {}", path.display()));
    (!rates.is_empty()).then(|| rates.join(", ") + &synonyms.unwrap_or_default())
}
