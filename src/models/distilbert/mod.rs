//! DistilBERT (arXiv 1910.01108): BERT without segments and without a pretrained pooler.

use crate::error::Result;
use crate::models::encoder::{Config, Design, Encoder, LmHeadNames, Segments};
use crate::models::family::{Family, Plan, no_next_sentence};
use crate::models::{Role, check};
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::json;

pub const FAMILY: Family = Family {
    model_types: &["distilbert"],
    build: |plan| Ok(Box::new(Encoder::new(design(&plan)?, plan))),
    refusal: no_next_sentence,
    llama_cpp: None,
};

/// DistilBERT's names of BERT's keys.
const KEYS: &[(&str, &str)] = &[
    ("dim", "hidden_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("hidden_dim", "intermediate_size"),
    ("activation", "hidden_act"),
    ("dropout", "hidden_dropout_prob"),
    ("attention_dropout", "attention_probs_dropout_prob"),
];

/// Keys that BERT does not have. Defaults are those of `transformers.DistilBertConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Own {
    qa_dropout: f64,
    seq_classif_dropout: f64,
}

impl Default for Own {
    fn default() -> Self {
        Own { qa_dropout: 0.1, seq_classif_dropout: 0.2 }
    }
}

pub(super) fn design(plan: &Plan) -> Result<(Config, Design)> {
    let config = Config::read(plan, &[("n_layers", json!(6))], KEYS)?;
    let own: Own = serde_json::from_value(plan.json.clone())?;
    check::probabilities(&[("qa_dropout", own.qa_dropout), ("seq_classif_dropout", own.seq_classif_dropout)])?;
    let mut design = Design::plain("DistilBert", "distilbert.", &config, plan.role);
    design.segments = Segments::None;
    design.attended_dropout = 0.0;
    design.pooler_activation = Activation::Relu;
    design.head_dropout = match plan.role {
        Role::SequenceClassification | Role::MultipleChoice => Some(own.seq_classif_dropout),
        Role::TokenClassification => Some(config.hidden_dropout_prob),
        Role::QuestionAnswering => Some(own.qa_dropout),
        _ => None,
    };
    let param_names = &mut design.param_names;
    param_names.blocks = (0..config.num_hidden_layers).map(|i| format!("transformer.layer.{i}")).collect();
    param_names.attention =
        ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"];
    param_names.feed_forward = ["ffn.lin1", "ffn.lin2", "output_layer_norm"];
    param_names.pooler = "pre_classifier".into();
    param_names.lm_head = LmHeadNames {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        decoder: "vocab_projector",
        bias: "vocab_projector",
    };
    Ok((config, design))
}
