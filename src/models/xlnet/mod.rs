//! XLNet (arXiv 1906.08237), fine-tuned as its authors do: on the content stream alone, every token seeing all others.
//!
//! The permutations, the second stream and the memory of earlier segments belong to pretraining. Of these only the
//! weight `mask_emb` is in a fine-tuned file; it is carried along and never trained.
//!
//! Answers are found as `XLNetForQuestionAnsweringSimple` does, start and end each by a score. Of a folder saved as
//! `XLNetForQuestionAnswering`, which searches for the end with beams, training takes the layers, and its head starts
//! fresh.

mod config;
mod hf_names;
mod layer;
mod model;

use crate::models::Role;
use crate::models::family::{Family, no_generation};
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_models_are_refused_with_the_reason() {
        for role in [Role::MaskedLm, Role::PreTraining, Role::CausalLm] {
            assert!((FAMILY.refusal)(role).unwrap().contains("permutation language model"), "{role}");
        }
        assert!((FAMILY.refusal)(Role::Seq2Seq).unwrap().contains("no decoder"));
    }
}
