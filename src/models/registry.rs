//! From a Hugging Face folder to its family.

use crate::error::{Context, Error, Result};
use crate::models::{Backbone, bert};
use crate::nn::ParamBuilder;
use serde_json::Value;
use std::path::Path;

/// The families that load, by `model_type` in `config.json`.
pub const FAMILIES: &[&str] = &["bert"];

/// Dropout probabilities that replace those of `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropoutOverrides {
    pub hidden: Option<f64>,
    pub attention: Option<f64>,
    pub classifier: Option<f64>,
}

/// Reads `config.json` of a model folder.
///
/// # Errors
/// Exit 2: no such folder, no such file, not JSON.
pub fn read_config(folder: &Path) -> Result<Value> {
    if !folder.is_dir() {
        return Err(Error::input(format!(
            "model.path: no such folder: {} (a name on a model hub is not fetched: download the folder first)",
            folder.display()
        )));
    }
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).input_context(format!(
        "{}: cannot be read (a Hugging Face model folder holds config.json, *.safetensors and tokenizer.json)",
        path.display()
    ))?;
    serde_json::from_str(&text).input_context(path.display())
}

/// Builds the backbone that `config` (the content of `config.json` in `folder`) describes, declaring its parameters.
///
/// # Errors
/// Exit 2: a family that is not supported, or a value that the family does not know; the message names the key.
pub fn backbone(
    folder: &Path,
    config: Value,
    dropout: DropoutOverrides,
    builder: &mut ParamBuilder,
) -> Result<Box<dyn Backbone>> {
    let path = folder.join("config.json");
    match config.get("model_type").and_then(Value::as_str) {
        Some("bert") => {
            let parsed = bert::Config::read(&config, dropout).context(path.display())?;
            Ok(Box::new(bert::Bert::new(parsed, config, builder)))
        }
        Some(other) => Err(Error::input(format!(
            "{}: model_type \"{other}\" is not supported; this version fine-tunes: {}",
            path.display(),
            FAMILIES.join(", ")
        ))),
        None => Err(Error::input(format!("{}: no \"model_type\"; is this a transformers model?", path.display()))),
    }
}
