//! Adapter folders in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use crate::checkpoint::folder::write_file;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// The configuration of the base model with the task's entries. It is not named `config.json`, because transformers
/// then takes the folder for a full model's.
pub const MODEL_CONFIG: &str = "model_config.json";

/// The prefix of tensor names in an adapter's file.
pub const PREFIX: &str = "base_model.model.";

/// The content of `adapter_config.json`, of LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    pub peft_type: String,
    #[serde(default)]
    pub task_type: Option<String>,
    /// The folder of the base model, or its name on the Hub.
    pub base_model_name_or_path: Option<PathBuf>,
    /// The revision of the base model on the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default = "rank")]
    pub r: usize,
    #[serde(default = "alpha")]
    pub lora_alpha: f64,
    #[serde(default)]
    pub lora_dropout: f64,
    /// A list of names, or a pattern.
    #[serde(default)]
    pub target_modules: Value,
    /// Whether the base stores its matrices transposed (GPT-2).
    #[serde(default)]
    pub fan_in_fan_out: bool,
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    pub use_rslora: bool,
    #[serde(default)]
    pub use_dora: bool,
    #[serde(default = "none")]
    pub bias: String,
    #[serde(default)]
    pub inference_mode: bool,
}

/// PEFT's defaults.
fn rank() -> usize {
    8
}

fn alpha() -> f64 {
    8.0
}

fn none() -> String {
    "none".to_owned()
}

/// Options of PEFT that change what an adapter computes and are not supported, each with the values that change nothing.
const UNSUPPORTED: &[&str] = &[
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
];

/// Initializations of PEFT that leave the base model's weights as they are. All others (PiSSA, OLoRA, CorDA, LoftQ,
/// LoRA-GA) subtract the new adapter from these weights, or quantize them, so that the adapter fits other weights.
const KEEP_BASE: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// Returns the weight file of an adapter folder: older versions of PEFT wrote `adapter_model.bin`.
pub fn weights_in(folder: &Path) -> PathBuf {
    let [now, before] = [WEIGHTS, "adapter_model.bin"].map(|name| folder.join(name));
    if before.exists() && !now.exists() { before } else { now }
}

impl AdapterConfig {
    /// Whether a folder is an adapter's.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(CONFIG).is_file()
    }

    /// Reads the file of an adapter folder.
    ///
    /// # Errors
    /// Exit 2: not JSON, another method than LoRA, or an option that is not supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path).input_context(path.display())?;
        let json: Value = serde_json::from_str(&text).input_context(path.display())?;
        let refuse = |why: String| Err(Error::input(format!("{}: {why}", path.display())));
        let kind = json.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        if kind != "LORA" {
            return refuse(format!("peft_type {kind:?} is not supported; LORA is (with use_dora, use_rslora)"));
        }
        let changes = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        if let Some(key) = UNSUPPORTED.iter().find(|key| json.get(**key).is_some_and(changes)) {
            return refuse(format!("{key} is not supported: merge such an adapter by merge_and_unload() of peft"));
        }
        let init = json.get("init_lora_weights").and_then(Value::as_str);
        if let Some(init) = init.filter(|init| !KEEP_BASE.contains(&init.to_lowercase().as_str())) {
            return refuse(format!(
                "init_lora_weights = {init:?} is not supported: it changed the weights of the base model, which the \
                 adapter does not contain; in peft, convert the adapter by save_pretrained(..., \
                 path_initial_model_for_weight_conversion=...), or merge it by merge_and_unload()"
            ));
        }
        let bias = json.get("bias").and_then(Value::as_str).unwrap_or("none");
        if bias != "none" {
            return refuse(format!("bias = {bias:?} is not supported: only \"none\" is"));
        }
        serde_json::from_value(json).input_context(path.display())
    }

    /// Writes the file to an adapter folder. A whole `lora_alpha` is written as an integer, as PEFT declares it.
    ///
    /// # Errors
    /// The file name and the system error.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut json = serde_json::to_value(self)?;
        if self.lora_alpha.fract() == 0.0 {
            json["lora_alpha"] = json!(self.lora_alpha as i64);
        }
        write_file(&folder.join(CONFIG), &serde_json::to_vec_pretty(&json)?)
    }

    /// Returns the base model: a folder, or `org/name@revision`.
    pub fn base(&self) -> Option<PathBuf> {
        let named = self.base_model_name_or_path.clone()?;
        match &self.revision {
            Some(revision) if !named.exists() => Some(format!("{}@{revision}", named.display()).into()),
            _ => Some(named),
        }
    }

    /// The factor of B A (rsLoRA: arXiv 2312.03732).
    pub fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &Value) -> Result<AdapterConfig> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), json.to_string()).unwrap();
        AdapterConfig::read(dir.path())
    }

    #[test]
    fn what_is_written_is_read() {
        let json = json!({"peft_type": "LORA", "base_model_name_or_path": "b", "rank_pattern": {}, "use_dora": true});
        let config = read(&json).unwrap();
        assert_eq!((config.r, config.lora_alpha, config.use_dora, config.scale()), (8, 8.0, true, 1.0));
        let config = AdapterConfig { r: 4, lora_alpha: 16.0, use_rslora: true, ..config };
        assert_eq!(config.scale(), 8.0);
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path()).unwrap();
        assert_eq!(AdapterConfig::read(dir.path()).unwrap(), config);
        assert!(!std::fs::read_to_string(dir.path().join(CONFIG)).unwrap().contains("revision"));
        assert_eq!(config.base(), Some("b".into()));
        let pinned = AdapterConfig { revision: Some("v1".into()), ..config };
        assert_eq!(pinned.base(), Some("b@v1".into()));
    }

    #[test]
    fn what_is_not_supported_is_an_error() {
        let message = |key: &str, value: Value| {
            let mut json = json!({"peft_type": "LORA", "base_model_name_or_path": "b"});
            json[key] = value;
            read(&json).unwrap_err().to_string()
        };
        assert!(message("peft_type", json!("IA3")).contains("adapter_config.json: peft_type \"IA3\" is not supported"));
        assert!(message("rank_pattern", json!({"q": 4})).contains("rank_pattern is not supported"));
        assert!(message("bias", json!("all")).contains("bias = \"all\" is not supported"));
        for init in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "of the future"] {
            let message = message("init_lora_weights", json!(init));
            assert!(
                message.contains(&format!("init_lora_weights = {init:?} is not supported: it changed")),
                "{message}"
            );
            assert!(message.contains("path_initial_model_for_weight_conversion=...)"), "{message}");
        }
        for init in [json!(true), json!(false), json!(null), json!("gaussian"), json!("eva"), json!("orthogonal")] {
            let json = json!({"peft_type": "LORA", "base_model_name_or_path": "b", "init_lora_weights": init});
            assert!(read(&json).is_ok(), "{json}");
        }
    }
}
