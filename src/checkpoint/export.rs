//! The model of a checkpoint as a Hugging Face folder.

use crate::checkpoint::folder::{copy_file, write_file};
use crate::checkpoint::tensors;
use crate::error::{Error, Result};
use crate::models::hf_names::HfNames;
use crate::nn::{ParamId, Params};
use serde_json::Value;
use std::path::Path;
use tch::Tensor;

/// What belongs to a model folder besides the weights and is carried from the folder that training began with.
pub const CARRIED: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "generation_config.json",
];

/// Of these, one at least makes a tokenizer.
const VOCABULARIES: &[&str] = &["tokenizer.json", "vocab.txt"];

/// Tensors under Hugging Face's names: `pick` gives each parameter's tensor (its weight, its gradient), which is cut
/// into the parts that the file knows.
pub fn named(params: &Params, names: &HfNames, pick: impl Fn(ParamId) -> Tensor) -> Vec<(String, Tensor)> {
    let mut out = Vec::new();
    for id in params.ids() {
        let parts = names.exported(names.of(&params.spec(id).name));
        let chunks = pick(id).chunk(parts.len() as i64, 0);
        out.extend(parts.into_iter().zip(chunks));
    }
    out
}

/// Writes `config.json`, `model.safetensors` and the files carried from `origin` into `folder`.
///
/// # Errors
/// The file's name and what the system says.
pub fn write_model(folder: &Path, config: &Value, params: &Params, names: &HfNames, origin: &Path) -> Result<()> {
    write_file(&folder.join("config.json"), &serde_json::to_vec_pretty(config)?)?;
    let carried: Vec<&&str> = CARRIED.iter().filter(|name| origin.join(name).exists()).collect();
    if !carried.iter().any(|name| VOCABULARIES.contains(name)) {
        return Err(Error::other(format!("{}: the tokenizer that training began with is gone", origin.display())));
    }
    carried.into_iter().try_for_each(|name| copy_file(&origin.join(name), &folder.join(name)))?;
    tensors::write(&folder.join("model.safetensors"), named(params, names, |id| params.weight(id)))
}
