//! Longformer (arXiv 2004.05150): RoBERTa with attention within a sliding window, and global attention of a few tokens.

mod attention;
mod global_tokens;

use crate::data::batch::Batch;
use crate::data::extent::Extent;
use crate::error::{Error, Result};
use crate::models::encoder::{Attention, Config, Design, Encoder};
use crate::models::family::{Family, Plan, no_next_sentence};
use crate::models::hf_names::layer as named;
use crate::models::{check, roberta};
use crate::nn::blocks::BlockConfig;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::global_attention::GlobalAttentionConfig;
use attention::WindowedAttention;
use global_tokens::GlobalTokens;
use serde_json::Value;
use tch::Tensor;

pub const FAMILY: Family = Family {
    model_types: &["longformer"],
    build: |plan| Ok(Box::new(encoder(plan)?)),
    refusal: no_next_sentence,
    llama_cpp: None,
};

fn encoder(plan: Plan) -> Result<Encoder> {
    let (config, design) = design(&plan)?;
    let windows = windows(&plan.json, config.num_hidden_layers)?;
    let globals = GlobalTokens::of_role(plan.role, &plan.json)?;
    let layer = move |b: &mut ParamBuilder, block: BlockConfig, i: usize| -> Box<dyn Attention> {
        let config = GlobalAttentionConfig::within(&block.attention, windows[i] / 2);
        let attention = WindowedAttention::new(b, config, globals != GlobalTokens::None, block.std);
        Box::new(AttentionOfTask { attention, globals })
    };
    Ok(Encoder::with_attention((config, design), plan, |_, _| Box::new(layer)))
}

fn design(plan: &Plan) -> Result<(Config, Design)> {
    let (config, mut design) = roberta::design_of(plan, "Longformer", "longformer.", 30522)?;
    // It has no classifier_dropout.
    design.head_dropout = design.head_dropout.map(|_| config.hidden_dropout_prob);
    for i in 0..config.num_hidden_layers {
        let part = |name: &str| format!("encoder.layer.{i}.attention.self.{name}_global");
        let [q, k, v] = ["query", "key", "value"].map(part);
        let own = &mut design.param_names.own;
        own.extend(named(&format!("layer.{i}.attention.global.q"), &[&q]));
        own.extend(named(&format!("layer.{i}.attention.global.kv"), &[&k, &v]));
    }
    Ok((config, design))
}

/// The window of each layer, both sides together: `attention_window`, one for all layers or a list.
fn windows(json: &Value, layers: usize) -> Result<Vec<i64>> {
    let windows: Option<Vec<i64>> = match json.get("attention_window") {
        None => Some(vec![512; layers]),
        Some(Value::Array(each)) => each.iter().map(Value::as_i64).collect(),
        Some(one) => one.as_i64().map(|window| vec![window; layers]),
    };
    let windows = windows
        .ok_or_else(|| Error::input("attention_window: expected an integer, or a list with one for each layer"))?;
    if windows.len() != layers {
        return Err(Error::input(format!(
            "attention_window has {} values for num_hidden_layers = {layers}: expected one for each layer",
            windows.len()
        )));
    }
    for &window in &windows {
        check::sizes(&[("attention_window", window)])?;
        if window % 2 != 0 {
            return Err(Error::input(format!(
                "attention_window = {window}: expected an even number, a half on each side"
            )));
        }
    }
    Ok(windows)
}

/// Attention with the global tokens of a task head.
#[derive(Debug)]
struct AttentionOfTask {
    attention: WindowedAttention,
    globals: GlobalTokens,
}

impl Attention for AttentionOfTask {
    fn forward(&self, ctx: &mut Ctx, x: &Tensor, batch: &Batch) -> Tensor {
        let lengths = batch.sequences.lengths();
        self.attention.forward(ctx, x, lengths, &self.globals.of(&batch.ids, lengths))
    }

    fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        self.attention.cost(how, x, self.globals.expected(x))
    }
}

#[cfg(test)]
mod tests;
