//! DeBERTa version 2 (arXiv 2006.03654) and 3 (arXiv 2111.09543): BERT with disentangled attention.

mod own;

use crate::data::batch::Batch;
use crate::data::extent::Extent;
use crate::error::{Error, Result};
use crate::models::encoder::{Attention, Config, Design, Encoder, LmHeadNames};
use crate::models::family::{Family, Plan, no_next_sentence};
use crate::models::hf_names::{HfParam, layer};
use crate::models::{Role, check};
use crate::nn::Ctx;
use crate::nn::blocks::BlockConfig;
use crate::nn::disentangled_attention::{DisentangledAttention, DisentangledConfig, PositionTerms};
use crate::nn::relative_positions::{RelativeConfig, RelativePositions};
use crate::ops::cost::{ComputeMode, Cost};
use own::Own;
use serde_json::json;
use tch::Tensor;

pub const FAMILY: Family = Family {
    model_types: &["deberta-v2"],
    build: |plan| Ok(Box::new(encoder(plan)?)),
    refusal: no_next_sentence,
    llama_cpp: None,
};

/// Embeddings of relative positions, and the terms of attention's scores that depend on them.
type Relative = (RelativeConfig, PositionTerms);

fn encoder(plan: Plan) -> Result<Encoder> {
    let (config, design, relative) = design(&plan)?;
    let Some((relative, terms)) = relative else { return Ok(Encoder::new((config, design), plan)) };
    Ok(Encoder::with_attention((config, design), plan, |b, layers| {
        let positions = b.shared(layers, |b| b.scope("relative", |b| RelativePositions::new(b, relative)));
        Box::new(move |b, BlockConfig { hidden, attention, std, .. }, _| {
            let config = DisentangledConfig { hidden, attention, terms, std };
            Box::new(DisentangledAttention::new(b, config, &positions))
        })
    }))
}

impl Attention for DisentangledAttention {
    fn forward(&self, ctx: &mut Ctx, x: &Tensor, batch: &Batch) -> Tensor {
        self.forward(ctx, x, &batch.sequences)
    }

    fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        self.cost(how, x)
    }
}

fn design(plan: &Plan) -> Result<(Config, Design, Option<Relative>)> {
    let defaults = [
        ("vocab_size", json!(128_100)),
        ("hidden_size", json!(1536)),
        ("num_hidden_layers", json!(24)),
        ("num_attention_heads", json!(24)),
        ("intermediate_size", json!(6144)),
        ("type_vocab_size", json!(0)),
        ("layer_norm_eps", json!(1e-7)),
    ];
    let mut config = Config::read(plan, &defaults, &[])?;
    let own = Own::read(plan, &config)?;
    let mut design = Design::plain("DebertaV2", "deberta.", &config, plan.role);
    design.embedding = own.embedding_size.filter(|width| *width != config.hidden_size);
    design.projects_first = true;
    design.first_position = Some(0).filter(|_| own.position_biased_input);
    let terms = own.terms()?;
    // The scores are scaled as a sum of these terms, with relative positions or without.
    let count = 1 + i64::from(terms.to_position) + i64::from(terms.to_content);
    design.scale = 1.0 / ((config.head_dim() * count) as f64).sqrt();
    let relative = own.relative(&config)?.filter(|_| count > 1 && config.num_hidden_layers > 0);
    design.convolution = own.convolution(&config)?;
    design.pooler_activation = check::activation("pooler_hidden_act", &own.pooler_hidden_act)?;
    if matches!(plan.role, Role::SequenceClassification | Role::MultipleChoice) {
        design.head_dropout = Some(own.cls_dropout.unwrap_or(config.hidden_dropout_prob));
        // Few configurations have dropout before the pooler: an override of the head's does not add it.
        design.pooler_dropout = Some(own.pooler_dropout).filter(|p| *p > 0.0);
    }
    let param_names = &mut design.param_names;
    param_names.widen = "embeddings.embed_proj";
    param_names.pooler = "pooler.dense".into();
    param_names.attention = [
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
        "attention.output.dense",
        "attention.output.LayerNorm",
    ];
    param_names.own = params(&config, &own);
    if plan.role == Role::MaskedLm && !own.legacy {
        config.tie_word_embeddings = true;
        let head = "lm_predictions.lm_head";
        let (dense, norm) = ("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm");
        param_names.lm_head = LmHeadNames { dense, norm, decoder: head, bias: head };
    } else if plan.role == Role::MaskedLm {
        refuse_other_head(plan)?;
    }
    Ok((config, design, relative.map(|relative| (relative, terms))))
}

/// The parameters that other encoders do not have.
fn params(config: &Config, own: &Own) -> Vec<HfParam> {
    let mut params = vec![HfParam::new("relative.weight", ["encoder.rel_embeddings.weight"])];
    let kernel = [config.hidden_size, config.hidden_size, own.conv_kernel_size];
    params.push(HfParam::new("convolution.weight", ["encoder.conv.conv.weight"]).stored_as(&kernel));
    params.push(HfParam::new("convolution.bias", ["encoder.conv.conv.bias"]));
    params.extend(layer("relative.norm", &["encoder.LayerNorm"]));
    params.extend(layer("convolution.norm", &["encoder.conv.LayerNorm"]));
    for i in 0..config.num_hidden_layers {
        for (native, part) in [("position_key", "pos_key_proj"), ("position_query", "pos_query_proj")] {
            let part = format!("encoder.layer.{i}.attention.self.{part}");
            params.extend(layer(&format!("layer.{i}.attention.{native}"), &[&part]));
        }
    }
    params
}

/// Refuses weights with the head of pretraining for a configuration with that of transformers, which is random then.
fn refuse_other_head(plan: &Plan) -> Result<()> {
    let has = |name: &str| Ok::<_, Error>((plan.stored)(name)?.is_some());
    if has("cls.predictions.bias")? || !has("lm_predictions.lm_head.bias")? {
        return Ok(());
    }
    Err(Error::input(
        "the weights have the masked-language-model head lm_predictions, but the configuration asks for another one, \
         cls.predictions: add \"legacy\": false",
    ))
}
