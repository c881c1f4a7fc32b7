//! ALBERT (arXiv 1909.11942): narrow embeddings, and layers that share their weights.

use crate::error::{Error, Result};
use crate::models::encoder::{Config, Design, Encoder, LmHeadNames};
use crate::models::family::{Family, Plan, no_generation};
use crate::models::{Role, check};
use serde::Deserialize;
use serde_json::json;

pub const FAMILY: Family = Family {
    model_types: &["albert"],
    build: |plan| Ok(Box::new(Encoder::new(design(&plan)?, plan))),
    refusal: no_generation,
    llama_cpp: None,
};

/// Keys that BERT does not have. Defaults are those of `transformers.AlbertConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Own {
    embedding_size: i64,
    num_hidden_groups: usize,
    inner_group_num: usize,
}

impl Default for Own {
    fn default() -> Self {
        Own { embedding_size: 128, num_hidden_groups: 1, inner_group_num: 1 }
    }
}

pub(super) fn design(plan: &Plan) -> Result<(Config, Design)> {
    let defaults = [
        ("vocab_size", json!(30000)),
        ("hidden_size", json!(4096)),
        ("num_attention_heads", json!(64)),
        ("intermediate_size", json!(16384)),
        ("hidden_act", json!("gelu_new")),
        ("hidden_dropout_prob", json!(0.0)),
        ("attention_probs_dropout_prob", json!(0.0)),
        ("classifier_dropout_prob", json!(0.1)),
    ];
    let config = Config::read(plan, &defaults, &[("classifier_dropout_prob", "classifier_dropout")])?;
    let own: Own = serde_json::from_value(plan.json.clone())?;
    check::sizes(&[("embedding_size", own.embedding_size)])?;
    let mut design = Design::plain("Albert", "albert.", &config, plan.role);
    design.embedding = Some(own.embedding_size);
    design.mlp_dropout = 0.0;
    design.layers = own.layers(config.num_hidden_layers)?;
    if plan.role == Role::PreTraining {
        design.head_dropout = Some(config.classifier_dropout.unwrap_or(config.hidden_dropout_prob));
        design.param_names.classifier = "sop_classifier.classifier";
    }
    let param_names = &mut design.param_names;
    let block = |group, inner| format!("encoder.albert_layer_groups.{group}.albert_layers.{inner}");
    let groups = 0..own.num_hidden_groups;
    param_names.blocks =
        groups.flat_map(|group| (0..own.inner_group_num).map(move |inner| block(group, inner))).collect();
    param_names.attention =
        ["attention.query", "attention.key", "attention.value", "attention.dense", "attention.LayerNorm"];
    param_names.feed_forward = ["ffn", "ffn_output", "full_layer_layer_norm"];
    param_names.pooler = "albert.pooler".into();
    param_names.lm_head = LmHeadNames {
        dense: "predictions.dense",
        norm: "predictions.LayerNorm",
        decoder: "predictions.decoder",
        bias: "predictions",
    };
    Ok((config, design))
}

impl Own {
    /// Returns the block of each layer: the blocks of a group run one after another, for each of its layers. As in
    /// transformers, layer i belongs to group i / (layers / groups), rounded down.
    fn layers(&self, layers: usize) -> Result<Vec<usize>> {
        let Own { num_hidden_groups: groups, inner_group_num: inner, .. } = *self;
        if groups < 1 || groups > layers || inner < 1 {
            return Err(Error::input(format!(
                "num_hidden_groups = {groups} and inner_group_num = {inner}: \
                 from 1 to num_hidden_layers = {layers} groups of at least one layer are wanted"
            )));
        }
        let group = |layer: usize| (layer as f64 / (layers as f64 / groups as f64)) as usize;
        Ok((0..layers).flat_map(|layer| (0..inner).map(move |i| group(layer) * inner + i)).collect())
    }
}
