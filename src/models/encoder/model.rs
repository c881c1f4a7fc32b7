//! The blocks of an encoder: embeddings, then one block per layer; the pooler and the language-model head run in the
//! head's block.

use super::{Config, Design, Segments};
use crate::data::batch::{Batch, Noise};
use crate::data::extent::Extents;
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::{Backbone, Boundary, Reads, Role};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::blocks::{BlockConfig, PostNormBlock};
use crate::nn::input_embeddings::{InputConfig, InputEmbeddings};
use crate::nn::linear::{HeadInput, Linear};
use crate::nn::lm_head::{MaskedLmConfig, MaskedLmHead};
use crate::nn::pooler::{self, Picks, Pooler, PoolerConfig};
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::dropout;
use serde_json::Value;
use tch::Tensor;

/// An encoder without a task's layer.
#[derive(Debug)]
pub struct Encoder {
    pub(super) config: Config,
    pub(super) design: Design,
    json: Value,
    role: Role,
    /// Dropout before a task's layer.
    pub(super) head_dropout: f64,
    embeddings: InputEmbeddings,
    /// Projection from the embeddings' width to the layers'.
    widen: Option<Linear>,
    blocks: Vec<PostNormBlock>,
    pooler: Option<Pooler>,
    lm_head: Option<MaskedLmHead>,
}

impl Encoder {
    /// Declares the parameters: block 0 the embeddings, blocks 1 to L the layers, block L + 1 the pooler and the
    /// language-model head, if the task head needs them. A shared layer belongs to the first block that runs it.
    pub fn new((config, design): (Config, Design), plan: Plan) -> Self {
        let Plan { json, role, builder: b, dropout, .. } = plan;
        let (hidden, std) = (config.hidden_size, config.initializer_range);
        let is_lm = matches!(role, Role::MaskedLm | Role::PreTraining);
        let pools = matches!(role, Role::SequenceClassification | Role::MultipleChoice | Role::PreTraining);
        let head_dropout = design.head_dropout.map_or(0.0, |p| dropout.classifier.unwrap_or(p));
        let width = design.embedding.unwrap_or(hidden);
        let input = InputConfig {
            vocab: config.vocab_size,
            positions: config.max_position_embeddings,
            first_position: design.first_position,
            segments: (design.segments != Segments::None).then_some(config.type_vocab_size),
            width,
            norm_eps: config.layer_norm_eps,
            dropout: config.hidden_dropout_prob,
            std,
            tied: is_lm && config.tie_word_embeddings,
        };
        let embeddings = InputEmbeddings::new(b, input);
        let widen =
            design.embedding.map(|width| b.scope("embeddings", |b| Linear::new(b, "widen", width, hidden, std)));
        let blocks = blocks(&config, &design, b);
        let (pooler, lm_head) = b.block(design.layers.len() + 1, |b| {
            let pooler = PoolerConfig {
                hidden,
                picks: Picks::First,
                dense: true,
                activation: Some(design.pooler_activation),
                dropout_before: if design.pooler_drops { head_dropout } else { 0.0 },
                dropout: head_dropout,
                std,
            };
            let head = MaskedLmConfig {
                hidden,
                embedding: width,
                vocab: config.vocab_size,
                activation: design.lm_activation,
                norm_eps: config.layer_norm_eps,
                std,
                tied: config.tie_word_embeddings,
            };
            (pools.then(|| Pooler::new(b, pooler)), is_lm.then(|| MaskedLmHead::new(b, head, embeddings.words())))
        });
        Encoder { config, design, json, role, head_dropout, embeddings, widen, blocks, pooler, lm_head }
    }
}

/// Declares each layer for all blocks that run it.
fn blocks(config: &Config, design: &Design, b: &mut ParamBuilder) -> Vec<PostNormBlock> {
    let head_dim = config.hidden_size / config.num_attention_heads;
    let block = BlockConfig {
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        attention: AttentionConfig {
            heads: config.num_attention_heads,
            kv_heads: config.num_attention_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            dropout: config.attention_probs_dropout_prob,
            mask: Mask::Bidirectional,
        },
        activation: config.activation,
        attended_dropout: design.attended_dropout,
        mlp_dropout: design.mlp_dropout,
        norm_eps: config.layer_norm_eps,
        std: config.initializer_range,
    };
    let count = design.layers.iter().map(|block| block + 1).max().unwrap_or(0);
    let blocks = |i: usize| -> Vec<usize> {
        let layers = design.layers.iter().enumerate();
        layers.filter(|(_, runs)| **runs == i).map(|(layer, _)| layer + 1).collect()
    };
    (0..count)
        .map(|i| b.shared(&blocks(i), |b| b.scope(&format!("layer.{i}"), |b| PostNormBlock::new(b, block))))
        .collect()
}

impl Backbone for Encoder {
    fn blocks(&self) -> usize {
        1 + self.design.layers.len()
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if block > 0 {
            let block = &self.blocks[self.design.layers[block - 1]];
            return vec![block.forward(ctx, &input[0], &batch.sequences)];
        }
        let segments = match self.design.segments {
            Segments::First => &batch.segments.zeros_like(),
            _ => &batch.segments,
        };
        let x = self.embeddings.forward(
            ctx,
            [&batch.tokens, batch.sequences.positions(), segments],
            batch.noise.as_ref().map(Noise::tensors),
        );
        vec![self.widen.as_ref().map_or_else(|| x.shallow_clone(), |widen| widen.forward(ctx, &x))]
    }

    fn summary(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        self.pooler.as_ref().expect("this task head has a pooler").forward(ctx, &hidden[0], &batch.sequences)
    }

    fn features(&self, hidden: &Boundary, ctx: &mut Ctx) -> Tensor {
        ctx.dropout(hidden[0].shallow_clone(), self.head_dropout)
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Projection {
        self.lm_head.as_ref().expect("this task head has a vocabulary").forward(ctx, rows)
    }

    fn head_input(&self) -> HeadInput {
        HeadInput { width: self.config.hidden_size, std: self.config.initializer_range, bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        Some(self.embeddings.max_length())
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }

    fn segments(&self) -> usize {
        match self.design.segments {
            Segments::Each => self.config.type_vocab_size as usize,
            Segments::First | Segments::None => usize::MAX,
        }
    }

    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        match block.checked_sub(1) {
            Some(layer) => self.blocks[self.design.layers[layer]].cost(how, &x.own),
            None => {
                let widened = self.widen.as_ref().map(|widen| widen.cost(how, x.own.tokens, true));
                self.embeddings.cost(how, x.own.tokens).then(widened.unwrap_or_default())
            }
        }
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost {
        let hidden = self.config.hidden_size;
        match (reads, &self.lm_head) {
            (Reads::Vocabulary, Some(head)) => head.cost(how, x.targets),
            (Reads::Summary, _) => pooler::cost(how, x, hidden),
            _ => dropout::cost(how, x.own.tokens * hidden as f64, self.head_dropout),
        }
    }

    fn hf_names(&self) -> HfNames {
        let names = self.design.param_names.names(self.lm_head.is_some() && self.config.tie_word_embeddings);
        HfNames { headless: self.role == Role::Embedding, ..names }
    }

    fn architecture(&self) -> String {
        format!("{}{}", self.design.class, self.role.ending())
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
