//! From a Hugging Face folder to its family, and which roles a family has.

use crate::error::{Context, Error, Result};
use crate::models::{Backbone, Role, albert, bert, distilbert, gpt2, llama, roberta, t5, xlnet};
use crate::nn::ParamBuilder;
use serde_json::Value;
use std::path::Path;
use tch::Tensor;

/// Dropout probabilities that replace those of `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropoutOverrides {
    pub hidden: Option<f64>,
    pub attention: Option<f64>,
    pub classifier: Option<f64>,
}

/// What a family's constructor gets.
pub struct Plan<'a> {
    /// The content of `config.json`.
    pub json: Value,
    pub dropout: DropoutOverrides,
    pub role: Role,
    /// Reads a tensor of the folder's weight files by its name there; `None` where they lack it or there are none.
    pub stored: &'a dyn Fn(&str) -> Result<Option<Tensor>>,
    /// Where parameters are declared: stage 0 the embeddings, one stage a layer, then the head's.
    pub builder: &'a mut ParamBuilder,
}

/// One family, or several that differ in their configuration alone.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// Reads the configuration and declares the parameters; errors name the key.
    pub build: fn(Plan) -> Result<Box<dyn Backbone>>,
    /// Why the family cannot have a role; `None` where it can.
    pub refusal: fn(Role) -> Option<&'static str>,
}

/// All families.
pub const FAMILIES: &[Family] = &[
    bert::FAMILY,
    roberta::FAMILY,
    distilbert::FAMILY,
    albert::FAMILY,
    xlnet::FAMILY,
    t5::FAMILY,
    gpt2::FAMILY,
    llama::FAMILY,
];

/// Why an encoder that sees both sides of every token has no such head.
pub fn no_generation(role: Role) -> Option<&'static str> {
    match role {
        Role::CausalLm => Some("it sees the tokens on both sides and cannot tell the next one; use masked-lm"),
        Role::Seq2Seq => Some("it has no decoder; use a T5 model"),
        _ => None,
    }
}

/// The same of an encoder that learnt from single texts.
pub fn no_next_sentence(role: Role) -> Option<&'static str> {
    match role {
        Role::PreTraining => Some("it has no head for next sentences; use masked-lm on single texts"),
        role => no_generation(role),
    }
}

/// The family of a model type.
pub fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
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

/// Builds the backbone that `plan` describes, of the model in `folder`, declaring its parameters.
///
/// # Errors
/// Exit 2: a family that is not supported, one that cannot have the role, or a value that the family does not know; the
/// message names the key.
pub fn backbone(folder: &Path, plan: Plan) -> Result<Box<dyn Backbone>> {
    let path = folder.join("config.json");
    let refuse = |why: String| Err(Error::input(format!("{}: {why}", path.display())));
    let Some(model_type) = plan.json.get("model_type").and_then(Value::as_str) else {
        return refuse("no \"model_type\"; is this a transformers model?".into());
    };
    let Some(family) = family(model_type) else {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.model_types).copied().collect();
        return refuse(format!(
            "model_type \"{model_type}\" is not supported; this version fine-tunes: {}",
            known.join(", ")
        ));
    };
    if let Some(why) = (family.refusal)(plan.role) {
        return refuse(format!("a \"{model_type}\" model is not fine-tuned for {}: {why}", plan.role));
    }
    (family.build)(plan).context(path.display())
}
