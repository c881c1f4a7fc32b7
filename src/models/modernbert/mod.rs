//! ModernBERT (arXiv 2412.13663): an encoder with pre-norm blocks, rotary position embeddings and gated feed-forward
//! layers, most of whose layers attend within a window.

mod config;
mod hf_names;
mod model;

use crate::models::family::{Family, no_next_sentence};
use config::Config;
use model::ModernBert;

pub const FAMILY: Family = Family {
    model_types: &["modernbert"],
    build: |plan| Ok(Box::new(ModernBert::new(Config::read(&plan.json, plan.dropout)?, plan))),
    refusal: no_next_sentence,
    llama_cpp: None,
};
