//! The types that model families and the registry share.

use crate::error::Result;
use crate::models::llama_cpp::Description;
use crate::models::{Backbone, Role};
use crate::nn::ParamBuilder;
use serde_json::Value;
use tch::Tensor;

/// Dropout probabilities that override those of `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropoutOverrides {
    pub hidden: Option<f64>,
    pub attention: Option<f64>,
    pub classifier: Option<f64>,
}

/// The arguments of a family's constructor.
pub struct Plan<'a> {
    /// The content of `config.json`.
    pub json: Value,
    pub dropout: DropoutOverrides,
    pub role: Role,
    /// Reads a tensor of the folder's weight files by name; `None` if they lack it or there are no files.
    pub stored: &'a dyn Fn(&str) -> Result<Option<Tensor>>,
    /// Declares the parameters: block 0 is the embeddings, then one block per layer, then the head.
    pub builder: &'a mut ParamBuilder,
}

/// One family, or several that differ only in their configuration.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// Reads the configuration and declares the parameters; errors name the key.
    pub build: fn(Plan) -> Result<Box<dyn Backbone>>,
    /// Returns why the family does not support a task head; `None` if it does.
    pub refusal: fn(Role) -> Option<&'static str>,
    /// Describes a language model for llama.cpp by its `config.json`, if llama.cpp has the family; errors name the key.
    pub llama_cpp: Option<fn(&Value) -> Result<Description>>,
}

/// Returns why a bidirectional encoder does not support a task head.
pub fn no_generation(role: Role) -> Option<&'static str> {
    match role {
        Role::CausalLm => Some("its attention is bidirectional, so it cannot predict the next token; use masked-lm"),
        Role::Seq2Seq => Some("it has no decoder; use a T5 or BART model"),
        _ => None,
    }
}

/// Returns why an encoder without next-sentence prediction does not support a task head.
pub fn no_next_sentence(role: Role) -> Option<&'static str> {
    match role {
        Role::PreTraining => Some("it has no NSP head; use masked-lm on single texts"),
        role => no_generation(role),
    }
}
