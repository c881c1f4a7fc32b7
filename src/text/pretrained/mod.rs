//! Tokenizers of model folders, exactly as `transformers` 5 loads them.
//!
//! `tokenizer.json` alone does not determine the tokens: [`class`] chooses the class, most classes rebuild the pipeline
//! ([`pipeline`]) from the vocabulary ([`source`]) and from `tokenizer_config.json` ([`settings`]), and all of them add
//! tokens ([`adding`]). Older folders have other vocabulary files: `vocab.txt`, `vocab.json` with `merges.txt`,
//! SentencePiece models and tiktoken files. [`checks`] refuses files on which the `tokenizers` crate panics.

mod adding;
mod checks;
mod class;
mod class_tokens;
mod merges;
mod parts;
mod pipeline;
mod protobuf;
mod rules;
mod sentencepiece;
mod settings;
mod source;

use super::special_tokens::{Special, json_of};
use crate::error::{Error, Result};
use class::Class;
pub use pipeline::QWEN2_SPLIT;
use serde_json::Value;
pub use source::LLAMA3_SPLIT;
use std::path::Path;
use tokenizers::Tokenizer;

/// Whether a file of [`crate::hub::TOKENIZER_FILES`] is a vocabulary.
pub fn is_vocabulary(name: &str) -> bool {
    name == "tokenizer.json" || name.starts_with("vocab.") || name.ends_with(".model")
}

/// Returns what `config.json` says about the tokenizer: `model_type` and `tokenizer_class`.
///
/// # Errors
/// It is not JSON (exit 2).
pub fn model_class(dir: &Path) -> Result<[Option<Value>; 2]> {
    let config = json_of(&dir.join("config.json"))?;
    Ok(["model_type", "tokenizer_class"].map(|key| config.get(key).cloned()))
}

/// A tokenizer with what its folder says about it.
pub struct Pretrained {
    pub tokenizer: Tokenizer,
    /// Tokens that the class gives a role by default and the vocabulary has.
    pub defaults: Vec<(Special, String)>,
    /// The tokens that chat templates have, by name.
    pub named: Vec<(String, String)>,
    /// Whether long texts lose their beginning (`truncation_side = "left"`).
    pub truncates_left: bool,
}

/// Loads the tokenizer of a folder.
///
/// # Errors
/// Exit 2: no vocabulary; an invalid file; a class that cannot be rebuilt, or that does not fit `tokenizer.json`.
pub fn load(dir: &Path) -> Result<Pretrained> {
    let file = source::File::of_folder(dir)?;
    let (tokenizer, defaults, settings) = build(dir, file.as_ref(), None)?;
    let side = settings.json.get("truncation_side").and_then(Value::as_str);
    let stored = || tokenizer.get_truncation().map(|truncation| truncation.direction.as_ref());
    let truncates_left = match side.or_else(stored) {
        Some("left") => true,
        None | Some("right") => false,
        Some(other) => {
            let path = dir.join("tokenizer_config.json");
            let what = format!("truncation_side is {other:?}; it must be \"left\" or \"right\"");
            return Err(Error::input(format!("{}: {what}", path.display())));
        }
    };
    Ok(Pretrained { tokenizer, defaults, named: settings.texts(), truncates_left })
}

/// Builds the tokenizer of a folder with this `tokenizer.json`, and as this class instead of the folder's.
fn build(dir: &Path, file: Option<&source::File>, class: Option<Class>) -> Result<pipeline::Built> {
    let mut settings = settings::Settings::of_folder(dir, file.map_or(&[], |file| &file.added_tokens))?;
    let class = match class {
        Some(class) => class,
        None => class::of_folder(dir, file.map(|file| file.text.as_str()), &settings.json)?,
    };
    // A class that the folder cannot choose (Qwen2) is not one that its file does not fit.
    let as_it_is = class::is_backend(&settings.json) && file.is_some_and(|file| !file.fits(class));
    let class = if as_it_is { Class::Backend } else { class };
    let source = source::Source::of_folder(dir, file, class, &mut settings)?;
    let wrong = |why| Error::input(format!("{}: {why}", dir.display()));
    match &source.vocabulary {
        source::Vocabulary::Ids(vocab, _) => checks::ids(vocab.iter()),
        source::Vocabulary::Ready(tokenizer) => checks::ids(tokenizer.get_vocab(false).iter()),
        source::Vocabulary::Scores(_) | source::Vocabulary::Model(_) => Ok(()),
    }
    .map_err(wrong)?;
    pipeline::build(class, source, settings).map_err(wrong)
}

/// Returns the files that a folder with only the files of a slow tokenizer needs besides them, so that `transformers`
/// reads a `tokenizer.json` and has the same tokens: name and content. Empty if the folder has a `tokenizer.json`, or if
/// `transformers` would rebuild it with other tokens whatever the files say (a tiktoken file of Qwen2).
///
/// # Errors
/// As [`load`].
pub fn missing_files(dir: &Path) -> Result<Vec<(&'static str, String)>> {
    if dir.join("tokenizer.json").exists() {
        return Ok(Vec::new());
    }
    let failed = |e: tokenizers::Error| Error::other(format!("{}: {e}", dir.display()));
    let (tokenizer, _, settings) = build(dir, None, None)?;
    let json = tokenizer.to_string(true).map_err(failed)?;
    let file = source::File::of_text(&json, &dir.join("tokenizer.json"))?;
    let same = |built: Result<pipeline::Built>| {
        built.ok().and_then(|(built, ..)| built.to_string(true).ok()).is_some_and(|rebuilt| rebuilt == json)
    };
    if same(build(dir, Some(&file), None)) {
        return Ok(vec![("tokenizer.json", json)]);
    }
    let class = class::of_folder(dir, None, &settings.json)?;
    if class::is_fixed(dir)? || !same(build(dir, Some(&file), Some(Class::Backend))) {
        return Ok(Vec::new());
    }
    let mut config = settings.json.as_object().cloned().unwrap_or_default();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.entry("model_input_names").or_insert_with(|| class.inputs().into());
    for (key, token) in settings.named.iter().filter_map(|(key, token)| Some((key, token.as_ref()?))) {
        config.entry(key.as_str()).or_insert_with(|| token.text().into());
    }
    let config = serde_json::to_string_pretty(&config)?;
    Ok(vec![("tokenizer.json", json), ("tokenizer_config.json", config)])
}

#[cfg(test)]
mod tests;
