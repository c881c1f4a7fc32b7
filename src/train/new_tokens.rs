//! `data.add_tokens`: a model's tokenizer with more tokens, as a folder beside the token cache.

use crate::checkpoint::folder::{copy_file, write_file};
use crate::data::cache;
use crate::error::{Context, Error, Result};
use crate::text::new_tokens;
use crate::text::tokenizer::Tokenizer;
use crate::train::carried;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

/// Returns a folder with the tokenizer of `folder` and these tokens added, and its other small files. It is named by its
/// content, so that every rank may make it, and none twice.
///
/// # Errors
/// Exit 2: no tokenizer.json, or an invalid one; the folder cannot be written.
pub fn tokenizer_with(folder: &Path, tokens: &[String], cache_dir: Option<&Path>) -> Result<PathBuf> {
    let path = folder.join(FILE);
    let bytes = match path.exists() {
        true => fs::read(&path).input_context(path.display())?,
        // A folder with the files of a slow tokenizer only.
        false => Tokenizer::missing_files(folder)?
            .into_iter()
            .find_map(|(name, content)| (name == FILE).then(|| content.into_bytes()))
            .ok_or_else(|| Error::input(format!("data.add_tokens: {} has no tokenizer", folder.display())))?,
    };
    Error::refuse_lfs_pointer(&path, &bytes)?;
    let mut json: Value = serde_json::from_slice(&bytes).input_context(path.display())?;
    let added = new_tokens::add(&mut json, tokens);
    added.ok_or_else(|| Error::input(format!("{}: no vocabulary to add tokens to", path.display())))?;
    let (tokenizer, config) = (json.to_string(), config_with(folder, &json)?);
    let others: Vec<&str> = carried::names().chain(["config.json"]).filter(|name| *name != FILE).collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(tokenizer.as_bytes()).update(config.as_deref().unwrap_or_default().as_bytes());
    for name in &others {
        let content = fs::read(folder.join(name)).unwrap_or_default();
        hasher.update(format!("{name} {};", content.len()).as_bytes()).update(&content);
    }
    let cache = cache::folder(cache_dir).unwrap_or_else(std::env::temp_dir).join("tokenizers");
    let target = cache.join(&hasher.finalize().to_hex()[..32]);
    if target.is_dir() {
        return Ok(target);
    }
    // Ranks may also be threads of one process.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = target.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let fill = || -> Result<()> {
        fs::create_dir_all(&temporary).context(temporary.display())?;
        write_file(&temporary.join(FILE), tokenizer.as_bytes())?;
        let present = others.iter().filter(|name| folder.join(name).exists());
        present.into_iter().try_for_each(|name| copy_file(&folder.join(name), &temporary.join(name)))?;
        config.as_ref().map_or(Ok(()), |config| write_file(&temporary.join(CONFIG), config.as_bytes()))
    };
    let placed = fill().and_then(|()| Ok(fs::rename(&temporary, &target)?));
    if placed.is_err() {
        _ = fs::remove_dir_all(&temporary);
    }
    // Another rank may have been first.
    if target.is_dir() { Ok(target) } else { placed.context("data.add_tokens").map(|()| target) }
}

/// Returns the tokenizer_config.json with the added tokens of this tokenizer.json, if it lists added tokens:
/// transformers then reads them there, for the classes that it builds from the vocabulary.
fn config_with(folder: &Path, tokenizer: &Value) -> Result<Option<String>> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let mut config: Value =
        serde_json::from_slice(&fs::read(&path).input_context(path.display())?).input_context(path.display())?;
    let Some(listed) = config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) else { return Ok(None) };
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(mut entry)) = (token["id"].as_u64(), token.as_object().cloned()) else { continue };
        entry.remove("id");
        listed.entry(id.to_string()).or_insert(Value::Object(entry));
    }
    Ok(Some(config.to_string()))
}

/// Returns the number of rows that the embedding matrix of a model with this tokenizer and `rows` rows needs.
///
/// # Errors
/// As [`Tokenizer::from_folder`].
pub fn rows_for(tokenizer: &Path, rows: u64) -> Result<u64> {
    Ok(rows.max(Tokenizer::from_folder(tokenizer)?.vocab_size() as u64))
}
