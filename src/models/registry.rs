//! The list of model families, and the family of a Hugging Face folder.

use crate::error::{Context, Error, Result};
use crate::models::family::{Family, Plan};
use crate::models::llama_cpp::Description;
use crate::models::{Backbone, albert, bert, distilbert, electra, gpt2, llama, modernbert, roberta, t5, xlnet};
use serde_json::Value;
use std::path::Path;

pub const FAMILIES: &[Family] = &[
    bert::FAMILY,
    roberta::FAMILY,
    distilbert::FAMILY,
    albert::FAMILY,
    electra::FAMILY,
    modernbert::FAMILY,
    xlnet::FAMILY,
    t5::FAMILY,
    gpt2::FAMILY,
    llama::FAMILY,
];

pub fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
}

/// Reads `config.json` of a model folder, or `bert_config.json` of a TensorFlow checkpoint of BERT.
///
/// # Errors
/// Exit 2: no such folder, no such file, not JSON.
pub fn read_config(folder: &Path) -> Result<Value> {
    if !folder.is_dir() {
        return Err(Error::input(format!(
            "model.path: no such folder: {}{} (a model on the Hugging Face Hub is named ORG/NAME, where ORG is no local \
             folder)",
            folder.display(),
            if folder.is_relative() { " in the working directory" } else { "" }
        )));
    }
    let (path, of_google) = (folder.join("config.json"), folder.join("bert_config.json"));
    if !path.exists() && of_google.exists() {
        let mut json: Value = read_json(&of_google)?;
        if let Value::Object(map) = &mut json {
            map.insert("model_type".into(), "bert".into());
            map.insert("architectures".into(), Value::Array(vec!["BertForPreTraining".into()]));
        }
        return Ok(json);
    }
    read_json(&path)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).input_context(format!(
        "{}: cannot be read (a Hugging Face model folder has config.json, *.safetensors and tokenizer.json)",
        path.display()
    ))?;
    Error::refuse_lfs_pointer(path, text.as_bytes())?;
    serde_json::from_str(&text).input_context(path.display())
}

/// Builds the backbone of the model in `folder`, as `plan` describes, and declares its parameters.
///
/// # Errors
/// Exit 2: an unsupported family, a task head that the family does not support, or an invalid value; the message names
/// the key.
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
        return refuse(format!("\"{model_type}\" models do not support {}: {why}", plan.role));
    }
    (family.build)(plan).context(path.display())
}

/// Describes the language model in `folder` for llama.cpp.
///
/// # Errors
/// Exit 2: a family that is not exported, or a setting that llama.cpp does not have; the message names the key.
pub fn llama_cpp(folder: &Path, json: &Value) -> Result<Description> {
    let path = folder.join("config.json");
    let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(describe) = family(model_type).and_then(|family| family.llama_cpp) else {
        let exported = FAMILIES.iter().filter(|family| family.llama_cpp.is_some());
        let known: Vec<&str> = exported.flat_map(|family| family.model_types).copied().collect();
        return Err(Error::input(format!(
            "{}: model_type \"{model_type}\" is not exported to GGUF; these are: {}",
            path.display(),
            known.join(", ")
        )));
    };
    describe(json).context(path.display())
}
