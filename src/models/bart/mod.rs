//! BART (arXiv 1910.13461): an encoder and a decoder of post-norm layers with learned positions. For tasks on a text, the
//! decoder reads the same text as the encoder, shifted right.

mod config;
mod hf_names;
mod model;

use crate::models::Role;
use crate::models::family::Family;
pub use config::Config;
pub use model::Bart;

pub const FAMILY: Family = Family {
    model_types: &["bart"],
    build: |plan| Ok(Box::new(Bart::new(Config::read(&plan)?, plan))),
    refusal: |role| match role {
        Role::Seq2Seq | Role::SequenceClassification | Role::QuestionAnswering => None,
        Role::CausalLm => {
            Some("its decoder alone (BartForCausalLM) is not supported; use seq2seq, or a model like GPT-2")
        }
        Role::MaskedLm | Role::PreTraining => {
            Some("it learns to write a whole text from a corrupted one; use seq2seq with such pairs")
        }
        Role::Embedding => Some("it is an encoder-decoder; use an encoder such as BERT"),
        Role::TokenClassification | Role::MultipleChoice => {
            Some("transformers has no such class for it that could load the result; use an encoder such as RoBERTa")
        }
    },
    llama_cpp: None,
};
