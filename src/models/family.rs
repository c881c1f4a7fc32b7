//! What a family gives to the registry, and what its constructor gets.

use crate::error::Result;
use crate::models::{Backbone, Role};
use crate::nn::ParamBuilder;
use serde_json::Value;
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
