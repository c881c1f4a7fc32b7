//! XLNet (arXiv 1906.08237), fine-tuned as its authors do: on the content stream alone, every token seeing all others.
//!
//! The permutations, the second stream and the memory of earlier segments belong to pretraining. Of these only the
//! weight `mask_emb` is in a fine-tuned file; it is carried along and never trained.

mod attention;
mod config;
mod hf_names;
mod layer;
mod model;
mod summary;

use crate::models::Role;
use crate::models::registry::{Family, no_generation};
pub use config::Config;
pub use model::XlNet;

/// The family's entry in the registry.
pub const FAMILY: Family = Family {
    model_types: &["xlnet"],
    build: |plan| Ok(Box::new(XlNet::new(Config::read(&plan.json, plan.dropout)?, plan))),
    refusal: |role| match role {
        Role::MaskedLm | Role::PreTraining => {
            Some("it is a permutation language model and has no head for hidden tokens; use a BERT or RoBERTa model")
        }
        Role::CausalLm => Some(
            "it is a permutation language model: it tells a token from others in a drawn order, by a second stream that \
             fine-tuning does not have; use a GPT-2 or Llama model",
        ),
        role => no_generation(role),
    },
};
