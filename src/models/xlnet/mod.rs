//! XLNet (arXiv 1906.08237), fine-tuned as by its authors: on the content stream alone, with bidirectional attention.
//!
//! The permutations, the second stream and the memory of earlier segments belong to pretraining. Of these, a fine-tuned
//! file has only the weight `mask_emb`, which is kept and never trained.
//!
//! Answers are extracted as in `XLNetForQuestionAnsweringSimple`, with a score for each start and each end. From a
//! folder saved as `XLNetForQuestionAnswering`, which uses beam search for the end, training takes the layers; the head
//! is newly initialized.

mod config;
mod hf_names;
mod layer;
mod model;

use crate::models::Role;
use crate::models::family::{Family, no_generation};
pub use config::Config;
pub use model::XlNet;

pub const FAMILY: Family = Family {
    model_types: &["xlnet"],
    build: |plan| Ok(Box::new(XlNet::new(Config::read(&plan.json, plan.dropout)?, plan))),
    refusal: |role| match role {
        Role::MaskedLm | Role::PreTraining => {
            Some("it is a permutation language model and has no head for masked tokens; use a BERT or RoBERTa model")
        }
        Role::CausalLm => Some(
            "it is a permutation language model: it predicts tokens in a random order, with a second stream that \
             fine-tuning does not have; use a GPT-2 or Llama model",
        ),
        role => no_generation(role),
    },
    llama_cpp: None,
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
