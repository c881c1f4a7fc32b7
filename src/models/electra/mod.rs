//! ELECTRA (arXiv 2003.10555): BERT with embeddings of a width of their own. The discriminator is fine-tuned for tasks; the
//! generator is a masked language model.

use crate::error::{Error, Result};
use crate::models::encoder::{Config, Design, Encoder, LmHeadNames};
use crate::models::family::{Family, Plan, no_next_sentence};
use crate::models::{Role, check};
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::json;

pub const FAMILY: Family = Family {
    model_types: &["electra"],
    build: |plan| Ok(Box::new(Encoder::new(design(&plan)?, plan))),
    refusal: no_next_sentence,
    llama_cpp: None,
};

/// Keys that BERT does not have. Defaults are those of `transformers.ElectraConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Own {
    embedding_size: i64,
    summary_type: String,
    summary_use_proj: bool,
    summary_activation: Option<String>,
    summary_last_dropout: f64,
}

impl Default for Own {
    fn default() -> Self {
        Own {
            embedding_size: 128,
            summary_type: "first".into(),
            summary_use_proj: true,
            summary_activation: Some("gelu".into()),
            summary_last_dropout: 0.1,
        }
    }
}

pub(super) fn design(plan: &Plan) -> Result<(Config, Design)> {
    let defaults = [("hidden_size", json!(256)), ("num_attention_heads", json!(4)), ("intermediate_size", json!(1024))];
    let config = Config::read(plan, &defaults, &[])?;
    let own: Own = serde_json::from_value(plan.json.clone())?;
    check::sizes(&[("embedding_size", own.embedding_size)])?;
    check::probabilities(&[("summary_last_dropout", own.summary_last_dropout)])?;
    let mut design = Design::plain("Electra", "electra.", &config, plan.role);
    design.embedding = Some(own.embedding_size).filter(|width| *width != config.hidden_size);
    design.pooler_activation = Activation::Gelu;
    design.lm_activation = Activation::Gelu;
    let param_names = &mut design.param_names;
    param_names.widen = "embeddings_project";
    param_names.lm_head = LmHeadNames {
        dense: "generator_predictions.dense",
        norm: "generator_predictions.LayerNorm",
        decoder: "generator_lm_head",
        bias: "generator_lm_head",
    };
    match plan.role {
        Role::SequenceClassification => {
            param_names.pooler = "classifier.dense".into();
            param_names.classifier = "classifier.out_proj";
            design.pooler_dropout = design.head_dropout;
        }
        Role::MultipleChoice => {
            own.check_summary()?;
            param_names.pooler = "sequence_summary.summary".into();
            design.head_dropout = Some(own.summary_last_dropout);
        }
        _ => {}
    }
    Ok((config, design))
}

impl Own {
    /// Refuses a summary of another form than that of all published models.
    fn check_summary(&self) -> Result<()> {
        let activation = self.summary_activation.as_deref();
        match (&*self.summary_type, self.summary_use_proj, activation) {
            ("first", true, Some("gelu")) => Ok(()),
            (kind, projects, activation) => Err(Error::input(format!(
                "summary_type = {kind:?}, summary_use_proj = {projects}, summary_activation = {activation:?}: only \
                 \"first\", true and \"gelu\" are supported"
            ))),
        }
    }
}
