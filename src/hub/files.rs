//! Which files of a repository a model needs.

use super::names::TOKENIZER_FILES;
use crate::error::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Files beside the weights and those of the tokenizer: configurations, the settings of training, those of
/// sentence-transformers.
const BESIDE: &[&str] = &[
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "model_config.json",
    "trainer_config.toml",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];
/// The file that makes a repository an adapter's.
const ADAPTER: &str = "adapter_config.json";

/// Whether a model needs this file, apart from its weights.
pub fn is_beside_weights(name: &str) -> bool {
    BESIDE.contains(&name) || TOKENIZER_FILES.contains(&name)
}

/// Returns the names of those that are in subfolders.
pub(super) fn in_subfolders() -> impl Iterator<Item = &'static str> {
    BESIDE.iter().chain(TOKENIZER_FILES).copied().filter(|name| name.contains('/'))
}

/// Whether these are the files of a model or an adapter.
pub(super) fn is_model(names: &[&str]) -> bool {
    ["config.json", ADAPTER].iter().any(|name| names.contains(name))
}

/// Whether these are the files of an adapter, whose weights are small and say what it adapts.
pub(super) fn is_adapter(names: &[&str]) -> bool {
    names.contains(&ADAPTER)
}

/// Where the weights of a repository are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Files(Vec<String>),
    /// In the files that this index names.
    Index(String),
}

/// Finds the weights among the files of a repository: of an adapter, in safetensors, or else pickled. `None` if it has
/// none.
pub(super) fn weights(names: &[&str]) -> Option<Weights> {
    let sets: &[&str] = if is_adapter(names) {
        &["adapter_model.safetensors", "adapter_model.bin"]
    } else {
        &["model.safetensors", "pytorch_model.bin"]
    };
    sets.iter().find_map(|set| {
        let index = format!("{set}.index.json");
        if names.contains(set) {
            return Some(Weights::Files(vec![(*set).to_owned()]));
        }
        if names.contains(&index.as_str()) {
            return Some(Weights::Index(index));
        }
        // Several files whose index is missing are read too.
        let (stem, extension) = set.rsplit_once('.')?;
        let is_part = |name: &&&str| {
            let numbers = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
            numbers.is_some_and(|n| n.starts_with('-') && n.contains("-of-") && n.ends_with('.'))
        };
        let parts: Vec<String> = names.iter().filter(is_part).map(|name| (*name).to_owned()).collect();
        (!parts.is_empty()).then_some(Weights::Files(parts))
    })
}

/// Returns the files that an index names.
///
/// # Errors
/// Exit 2: not an index.
pub(super) fn of_index(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read(path).input_context(path.display())?;
    let json: Value = serde_json::from_slice(&text).input_context(path.display())?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let names: BTreeSet<&str> = map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).collect();
    Ok(names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_subfolders_are_uploaded_too() {
        let found: Vec<&str> = in_subfolders().collect();
        assert_eq!(found, ["1_Pooling/config.json", "additional_chat_templates/tool_use.jinja"]);
        assert!(found.into_iter().all(is_beside_weights));
    }

    #[test]
    fn weights_in_the_order_in_which_they_are_read() {
        let files = |names: &[&str]| Some(Weights::Files(names.iter().map(|name| (*name).to_owned()).collect()));
        let both = ["config.json", "model.safetensors", "pytorch_model.bin", "consolidated.safetensors"];
        assert_eq!(weights(&both), files(&["model.safetensors"]));
        assert_eq!(weights(&["pytorch_model.bin", "tf_model.h5"]), files(&["pytorch_model.bin"]));
        let index = "model.safetensors.index.json";
        let parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(weights(&[parts[0], parts[1], index]), Some(Weights::Index(index.into())));
        assert_eq!(weights(&[parts[0], parts[1], "model-x.safetensors"]), files(&parts));
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "model.safetensors"];
        assert_eq!(weights(&adapter), files(&["adapter_model.safetensors"]));
        assert_eq!(weights(&["tf_model.h5", "model.gguf", "onnx/model.safetensors"]), None);
    }
}
