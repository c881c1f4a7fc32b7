//! The folder that a model is read from: a full model's, or an adapter's, which names its base model's folder.

use crate::checkpoint::adapter::{AdapterConfig, CONFIG, MODEL_CONFIG};
use crate::checkpoint::export::GENERATION_FILE;
use crate::checkpoint::import;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::hub;
use crate::models::{Role, registry};
use crate::train::new_tokens;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A model folder.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// What the user names: a folder, or a model on the Hub.
    pub named: PathBuf,
    /// What the base model is named, of a full model the same.
    pub named_base: PathBuf,
    pub path: PathBuf,
    /// The folder of the full model: `path`, or the adapter's base model.
    pub base: PathBuf,
    pub adapter: Option<AdapterConfig>,
    /// The folder with the tokenizer and tokens that a run adds (`data.add_tokens`).
    pub extended: Option<PathBuf>,
}

impl ModelFolder {
    /// Finds out what the folder `named` is, or the model on the Hub, of which the files beside the weights are
    /// downloaded. `base` replaces the base model that an adapter names.
    ///
    /// # Errors
    /// Exit 2: an adapter that is not supported or whose base model's folder does not exist; a `base` without an adapter.
    /// As [`hub::model_folder`].
    pub fn open(named: &Path, base: Option<&Path>) -> Result<Self> {
        let path = hub::model_folder(named, false)?;
        let (full, named) = (path.clone(), named.to_owned());
        if !AdapterConfig::is_in(&path) {
            return match base {
                Some(_) if path.is_dir() => {
                    Err(Error::input(format!("{}: has no {CONFIG}, so it needs no base model", named.display())))
                }
                _ => {
                    let named_base = named.clone();
                    Ok(ModelFolder { named, named_base, path, base: full, adapter: None, extended: None })
                }
            };
        }
        let adapter = AdapterConfig::read(&path)?;
        let own_base = adapter.base();
        let named_base = base.or(own_base.as_deref());
        let place = path.join(CONFIG);
        const REMEDY: &str = "give the base model's folder: lora.base_model_name_or_path, or the option --base-model";
        let Some(named_base) = named_base else {
            return Err(Error::input(format!("{}: no base_model_name_or_path: {REMEDY}", place.display())));
        };
        let base = hub::model_folder(named_base, false).context(format!("the base model of {}", place.display()))?;
        if !base.is_dir() {
            let named = named_base.display();
            return Err(Error::input(format!(
                "{}: its base model {named} is no folder here: {REMEDY}",
                place.display()
            )));
        }
        if AdapterConfig::is_in(&base) {
            let why = "its base model is itself an adapter: merge that first (trainer merge)";
            return Err(Error::input(format!("{}: {why}: {}", place.display(), base.display())));
        }
        let named_base = named_base.to_owned();
        Ok(ModelFolder { named, named_base, path, base, adapter: Some(adapter), extended: None })
    }

    /// Finds out what `model.path` is, and adds the run's tokens to its tokenizer.
    ///
    /// # Errors
    /// As [`ModelFolder::open`] and [`new_tokens::tokenizer_with`].
    pub fn of(config: &Config) -> Result<Self> {
        let open = Self::open(&config.model.path, config.lora.base_model_name_or_path.as_deref());
        let mut folder = open.context("model.path")?;
        if config.data.add_tokens.is_empty() {
            return Ok(folder);
        }
        if folder.adapter.is_some() {
            return Err(Error::input(format!(
                "data.add_tokens: {} is an adapter, which has no rows for new tokens: merge it first (trainer merge)",
                folder.path.display()
            )));
        }
        let (tokens, cache) = (&config.data.add_tokens, config.data.cache_dir.as_deref());
        folder.extended = Some(new_tokens::tokenizer_with(folder.tokenizer(), tokens, cache)?);
        Ok(folder)
    }

    /// Returns the folder with the tokenizer.
    pub fn tokenizer(&self) -> &Path {
        if let Some(extended) = &self.extended {
            return extended;
        }
        if self.path.join("tokenizer.json").exists() { &self.path } else { &self.base }
    }

    /// Returns the folder with tokenizer and settings of generation.
    pub fn generation(&self) -> &Path {
        if self.extended.is_some() || self.path.join(GENERATION_FILE).exists() { self.tokenizer() } else { &self.base }
    }

    /// Returns the configuration of the model. For an adapter that `trainer` did not write it is the base model's, with
    /// the head of `adapter_config.json` and as many labels as the adapter's classifier has rows.
    ///
    /// # Errors
    /// Exit 2: no such folder, no such file, not JSON.
    pub fn read_config(&self) -> Result<Value> {
        let mut config = registry::read_config(&self.base)?;
        if let Some(extended) = &self.extended
            && let Some(rows) = config.get("vocab_size").and_then(Value::as_u64)
        {
            config["vocab_size"] = json!(new_tokens::rows_for(extended, rows)?);
        }
        let Some(adapter) = &self.adapter else { return Ok(config) };
        let own = self.path.join(MODEL_CONFIG);
        if own.exists() {
            let text = std::fs::read_to_string(&own).input_context(own.display())?;
            return serde_json::from_str(&text).input_context(own.display());
        }
        let role = match adapter.task_type.as_deref() {
            Some("SEQ_CLS") => Some(Role::SequenceClassification),
            Some("TOKEN_CLS") => Some(Role::TokenClassification),
            Some("QUESTION_ANS") => Some(Role::QuestionAnswering),
            Some("CAUSAL_LM") => Some(Role::CausalLm),
            Some("SEQ_2_SEQ_LM") => Some(Role::Seq2Seq),
            Some("FEATURE_EXTRACTION") => Some(Role::Embedding),
            _ => None,
        };
        if let (Some(role), Some(map)) = (role, config.as_object_mut()) {
            map.insert("architectures".into(), json!([format!("Model{}", role.ending())]));
            if matches!(role, Role::SequenceClassification | Role::TokenClassification)
                && let Some(labels) = import::classifier_rows(&self.path)?
                && map.get("id2label").and_then(Value::as_object).map_or(2, Map::len) != labels
            {
                let ids: Map<String, Value> =
                    (0..labels).map(|i| (i.to_string(), json!(format!("LABEL_{i}")))).collect();
                map.insert("id2label".into(), Value::Object(ids));
                map.remove("label2id");
            }
        }
        Ok(config)
    }
}

/// Returns the name of the model in a folder: that of the folder, or of the run whose final model or checkpoint it is;
/// of a model on the Hub its name without the organization.
pub fn name_of(folder: &Path) -> String {
    if let Some(repo) = hub::Repo::of_path(folder) {
        return repo.name().to_owned();
    }
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let own = name(&whole).unwrap_or_else(|| "model".into());
    let of_run = own == "final" || own.starts_with("checkpoint-");
    whole.parent().filter(|_| of_run).and_then(name).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_model_is_named_after_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let folder = dir.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            name_of(&folder)
        };
        assert_eq!([make("smol/final"), make("smol/checkpoint-5"), make("smol")], ["smol", "smol", "smol"]);
        assert_eq!([name_of(Path::new("runs/new/final")), name_of(Path::new("final"))], ["new", "final"]);
        assert_eq!(name_of(Path::new("no-such-org/bert@v1")), "bert");
    }
}
