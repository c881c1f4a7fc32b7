//! GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019).

mod config;
mod hf_names;
mod llama_cpp;

use crate::models::decoder::{self, Decoder};
use crate::models::family::Family;
use config::Config;

pub const FAMILY: Family = Family {
    model_types: &["gpt2"],
    build: |plan| Ok(Box::new(Decoder::new(Config::read(&plan.json, plan.dropout)?.decoder(plan.role), plan))),
    refusal: decoder::refusal,
    llama_cpp: Some(llama_cpp::describe),
};
