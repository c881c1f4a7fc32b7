//! RoBERTa (arXiv 1907.11692), XLM-RoBERTa (arXiv 1911.02116) and CamemBERT (arXiv 1911.03894).

use crate::error::{Error, Result};
use crate::models::Role;
use crate::models::encoder::{Config, Design, Encoder, LmHeadNames, Segments};
use crate::models::family::{Family, Plan, no_next_sentence};
use crate::ops::gated::activation::Activation;
use serde_json::{Value, json};

pub const FAMILY: Family = Family {
    model_types: &["roberta", "xlm-roberta", "camembert"],
    build: |plan| Ok(Box::new(Encoder::new(design(&plan)?, plan))),
    refusal: no_next_sentence,
    llama_cpp: None,
};

pub(super) fn design(plan: &Plan) -> Result<(Config, Design)> {
    let (class, vocabulary) = match plan.json.get("model_type").and_then(Value::as_str) {
        Some("xlm-roberta") => ("XLMRoberta", 30522),
        Some("camembert") => ("Camembert", 30522),
        _ => ("Roberta", 50265),
    };
    design_of(plan, class, "roberta.", vocabulary)
}

/// The design of a family with RoBERTa's embeddings and heads. `prefix` is that of its tensors, `vocabulary` the default
/// of `vocab_size`.
pub fn design_of(plan: &Plan, class: &'static str, prefix: &'static str, vocabulary: i64) -> Result<(Config, Design)> {
    let config = Config::read(plan, &[("vocab_size", json!(vocabulary)), ("pad_token_id", json!(1))], &[])?;
    let mut design = Design::plain(class, prefix, &config, plan.role);
    design.first_position = Some(first_position(&config)?);
    // Its tokenizers do not distinguish segments.
    if config.type_vocab_size == 1 {
        design.segments = Segments::First;
    }
    design.lm_activation = Activation::Gelu;
    design.param_names.lm_head =
        LmHeadNames { dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head" };
    match plan.role {
        Role::SequenceClassification => {
            design.pooler_dropout = design.head_dropout;
            design.param_names.pooler = "classifier.dense".into();
            design.param_names.classifier = "classifier.out_proj";
        }
        Role::MultipleChoice => design.head_dropout = Some(config.hidden_dropout_prob),
        _ => {}
    }
    Ok((config, design))
}

/// Padding has the position of its own token id, and earlier positions are unused: texts begin after it.
fn first_position(config: &Config) -> Result<i64> {
    let positions = config.max_position_embeddings;
    match config.pad_token_id {
        Some(pad) if (0..positions - 1).contains(&pad) => Ok(pad + 1),
        Some(pad) => Err(Error::input(format!(
            "max_position_embeddings = {positions} leaves no position after that of padding, pad_token_id = {pad}"
        ))),
        None => Err(Error::input("pad_token_id is null: positions are counted from it")),
    }
}
