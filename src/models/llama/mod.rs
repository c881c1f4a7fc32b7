//! Llama (arXiv 2302.13971, 2407.21783) and Mistral (arXiv 2310.06825), Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv
//! 2505.09388), which differ only in their configuration.

mod config;
mod hf_names;
mod llama_cpp;

use crate::models::decoder::{self, Decoder};
use crate::models::family::Family;
use config::Config;

pub const FAMILY: Family = Family {
    model_types: &["llama", "mistral", "qwen2", "qwen3"],
    build: |plan| Ok(Box::new(Decoder::new(Config::read(&plan.json, plan.dropout)?.decoder(plan.role), plan))),
    refusal: decoder::refusal,
    llama_cpp: Some(llama_cpp::describe),
};
