//! T5 (arXiv 1910.10683): version 1.0 (ReLU, tied head), version 1.1 and Flan (arXiv 2002.05202, 2210.11416: gated,
//! untied head), and mT5 (arXiv 2010.11934).

mod block;
mod config;
mod hf_names;
mod model;
mod relative_bias;

use crate::models::Role;
use crate::models::family::Family;
pub use config::Config;
pub use model::T5;

pub const FAMILY: Family = Family {
    model_types: &["t5", "mt5"],
    build: |plan| Ok(Box::new(T5::new(Config::read(&plan)?, plan))),
    refusal: |role| match role {
        Role::Seq2Seq => None,
        Role::MaskedLm | Role::PreTraining | Role::CausalLm => {
            Some("it generates a target from a source; use seq2seq with pairs of texts")
        }
        Role::Embedding => Some("it is an encoder-decoder; use an encoder such as BERT"),
        _ => Some("it generates answers as text; use seq2seq with the label as the target"),
    },
    llama_cpp: None,
};
