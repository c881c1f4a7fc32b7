//! Settings of low-rank adapters. Names and meanings are those of PEFT's `LoraConfig`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use crate::config::keys::{AT_LEAST_1, DefaultValue, Entries, FROM_0_BELOW_1, Key, POSITIVE, Section, parse, section};
use crate::config::problems::Problems;
use crate::config::value::Value;

section! {
    /// `[lora]`: adapters in place of full fine-tuning. LoRA is on if any key is set; names are those of PEFT's
    /// `LoraConfig` ([more](fine-tuning.md#lora)).
    LoraConfig in "lora" {
        /// Rank of the adapters. Each adapted matrix `[out, in]` gets A `[r, in]` and B `[out, r]`.
        r: Option<usize> => "8", AT_LEAST_1;
        /// Scale of the adapters. The product of B and A is multiplied by `lora_alpha / r`.
        lora_alpha: Option<f64> => "8", POSITIVE;
        /// Dropout on the inputs of the adapters.
        lora_dropout: Option<f64> => "0", FROM_0_BELOW_1;
        /// Layers with adapters. `"all-linear"`: all linear layers except the head. Or a list: each entry is the end of a
        /// module's Hugging Face name such as `"q_proj"`, or with `*` or `?` a pattern for the whole name.
        target_modules: Option<TargetModules> => "all linear layers";
        /// Uses rsLoRA's scale: `lora_alpha / sqrt(r)`.
        use_rslora: Option<bool> => "false";
        /// Trains DoRA adapters. They also have a magnitude for each row of an adapted matrix.
        use_dora: Option<bool> => "false";
        /// Other modules to train in full. They are saved with the adapters. The head of a classifier always is.
        modules_to_save: Option<Vec<String>> => "the classifier, and heads that are newly initialized";
        /// Folder or name of the base model. The name is that on the Hugging Face Hub. For an adapter as `model.path` whose
        /// base model was moved.
        base_model_name_or_path: Option<PathBuf> => "as in `adapter_config.json`";
    }
}

impl LoraConfig {
    /// Whether LoRA is on: any of its settings is set.
    pub fn is_on(&self) -> bool {
        LoraConfig { base_model_name_or_path: None, ..self.clone() } != LoraConfig::default()
    }
}

/// The linear layers that get adapters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum TargetModules {
    /// All but the head.
    AllLinear,
    /// Ends of module names, or patterns with wildcards.
    Names(Vec<String>),
}

/// [`TargetModules`] in TOML.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Names(Vec<String>),
}

const ALL: &str = "all-linear";

impl From<TargetModules> for Written {
    fn from(value: TargetModules) -> Self {
        match value {
            TargetModules::AllLinear => Written::Word(ALL.into()),
            TargetModules::Names(names) => Written::Names(names),
        }
    }
}

impl TryFrom<Written> for TargetModules {
    type Error = String;
    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Word(word) if word == ALL => Ok(TargetModules::AllLinear),
            Written::Word(word) => {
                Err(format!("found {word:?}, expected {}; for one name write [{word:?}]", Self::expected()))
            }
            Written::Names(names) if names.is_empty() || names.iter().any(String::is_empty) => {
                Err(format!("found an empty list or name, expected {}", Self::expected()))
            }
            Written::Names(names) => Ok(TargetModules::Names(names)),
        }
    }
}

impl Value for TargetModules {
    fn kind() -> String {
        "`all-linear` or list of strings".into()
    }
    fn expected() -> String {
        "\"all-linear\" or a list of names such as [\"q_proj\", \"v_proj\"]".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let word = value.as_str().map(|word| Ok(Written::Word(word.to_owned())));
        let written = word.or_else(|| Some(Vec::<String>::from_toml(value)?.map(Written::Names)))?;
        Some(written.and_then(TargetModules::try_from))
    }
}
