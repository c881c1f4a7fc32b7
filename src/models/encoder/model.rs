//! The blocks of an encoder: embeddings, then one block per layer; the pooler and the language-model head run in the
//! head's block.

use super::{Config, Design, Segments};
use crate::data::batch::{Batch, Noise};
use crate::data::extent::{Extent, Extents};
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::{Backbone, Boundary, Reads, Role};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::blocks::{BlockConfig, PostNormBlock};
use crate::nn::convolution::Convolution;
use crate::nn::input_embeddings::{InputConfig, InputEmbeddings};
use crate::nn::linear::{HeadInput, Linear};
use crate::nn::lm_head::{MaskedLmConfig, MaskedLmHead};
use crate::nn::norm::NormKind;
use crate::nn::pooler::{self, Picks, Pooler, PoolerConfig};
use crate::nn::prediction_head::PredictionHeadConfig;
use crate::nn::self_attention::SelfAttention;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::dropout;
use serde_json::Value;
use std::fmt::Debug;
use tch::Tensor;

/// The attention layer of an encoder's block.
pub trait Attention: Debug + Send + Sync {
    /// `[T, hidden]` to `[T, hidden]`.
    fn forward(&self, ctx: &mut Ctx, x: &Tensor, batch: &Batch) -> Tensor;

    /// Returns the cost over these sequences; the block before counts the input, as boundary activations.
    fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost;
}

impl Attention for SelfAttention {
    fn forward(&self, ctx: &mut Ctx, x: &Tensor, batch: &Batch) -> Tensor {
        self.forward(ctx, x, &batch.sequences, None)
    }

    fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        self.cost(how, x, false, false)
    }
}

/// Declares the attention of layer i, counted from 0.
pub type Declare = Box<dyn Fn(&mut ParamBuilder, BlockConfig, usize) -> Box<dyn Attention>>;

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
    blocks: Vec<PostNormBlock<Box<dyn Attention>>>,
    convolution: Option<Convolution>,
    pooler: Option<Pooler>,
    lm_head: Option<MaskedLmHead>,
    /// Whether the last layer computes only the first token of each sequence after its attention: the task head reads
    /// no other.
    only_first: bool,
}

impl Encoder {
    /// Declares the parameters: block 0 the embeddings, blocks 1 to L the layers, block L + 1 the pooler and the
    /// language-model head, if the task head needs them. A shared layer belongs to the first block that runs it.
    pub fn new(parts: (Config, Design), plan: Plan) -> Self {
        let attention = |b: &mut ParamBuilder, config: BlockConfig, _| -> Box<dyn Attention> {
            Box::new(SelfAttention::new(b, config.attention_layer()))
        };
        Self::with_attention(parts, plan, |_, _| Box::new(attention))
    }

    /// The same with another attention. `declare` gets the blocks of all layers, for the parameters that these share.
    pub fn with_attention(
        (config, design): (Config, Design),
        plan: Plan,
        declare: impl FnOnce(&mut ParamBuilder, &[usize]) -> Declare,
    ) -> Self {
        let Plan { json, role, builder: b, dropout, .. } = plan;
        let (hidden, std) = (config.hidden_size, config.initializer_range);
        let is_lm = matches!(role, Role::MaskedLm | Role::PreTraining);
        let pools = matches!(role, Role::SequenceClassification | Role::MultipleChoice | Role::PreTraining);
        let head_dropout = design.head_dropout.map_or(0.0, |p| dropout.classifier.unwrap_or(p));
        let width = design.embedding.unwrap_or(hidden);
        let input = InputConfig {
            vocab: config.vocab_size,
            positions: design.first_position.map(|first| [config.max_position_embeddings, first]),
            segments: (design.segments != Segments::None).then_some(config.type_vocab_size),
            width,
            scale: 1.0,
            projects: design.embedding.filter(|_| design.projects_first).map(|_| hidden),
            norm_eps: config.layer_norm_eps,
            dropout: config.hidden_dropout_prob,
            std,
            dense: is_lm && config.tie_word_embeddings,
        };
        let embeddings = InputEmbeddings::new(b, input);
        let widen = design.embedding.filter(|_| !design.projects_first);
        let widen = widen.map(|width| b.scope("embeddings", |b| Linear::new(b, "widen", width, hidden, std)));
        let all: Vec<usize> = (1..=design.layers.len()).collect();
        let attention = declare(b, &all);
        let blocks = blocks(&config, &design, b, &attention);
        let convolution = |config| b.block(1, |b| b.scope("convolution", |b| Convolution::new(b, config)));
        let convolution = design.convolution.map(convolution);
        let (pooler, lm_head) = b.block(design.layers.len() + 1, |b| {
            let pooler = PoolerConfig {
                hidden,
                picks: Picks::First,
                dense: true,
                activation: Some(design.pooler_activation),
                dropout_before: design.pooler_dropout.map_or(0.0, |p| dropout.classifier.unwrap_or(p)),
                dropout: head_dropout,
                std,
            };
            let head = PredictionHeadConfig {
                hidden,
                width,
                bias: true,
                activation: design.lm_activation,
                norm: NormKind::Layer,
                norm_eps: config.layer_norm_eps,
                std,
            };
            let tied = config.tie_word_embeddings;
            let head = MaskedLmConfig { head, vocab: config.vocab_size, bias: true, tied };
            (pools.then(|| Pooler::new(b, pooler)), is_lm.then(|| MaskedLmHead::new(b, head, embeddings.words())))
        });
        // The convolution is over all tokens of the first layer.
        let only_first = pools && !is_lm && design.layers.len() > usize::from(convolution.is_some());
        Encoder {
            config,
            design,
            json,
            role,
            head_dropout,
            embeddings,
            widen,
            blocks,
            convolution,
            pooler,
            lm_head,
            only_first,
        }
    }

    /// Whether the output of a block has a row for the first token of each sequence only.
    fn is_of_first(&self, block: usize) -> bool {
        self.only_first && block == self.design.layers.len()
    }
}

/// Declares each layer for all blocks that run it.
fn blocks(
    config: &Config,
    design: &Design,
    b: &mut ParamBuilder,
    attention: &Declare,
) -> Vec<PostNormBlock<Box<dyn Attention>>> {
    let block = BlockConfig {
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        attention: AttentionConfig {
            heads: config.num_attention_heads,
            kv_heads: config.num_attention_heads,
            head_dim: config.head_dim(),
            scale: design.scale,
            dropout: config.attention_probs_dropout_prob,
            mask: Mask::Bidirectional,
        },
        cross: false,
        activation: config.activation,
        activation_dropout: 0.0,
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
    let declare = |b: &mut ParamBuilder, i: usize| PostNormBlock::around(b, block, |b| attention(b, block, i));
    (0..count).map(|i| b.shared(&blocks(i), |b| b.scope(&format!("layer.{i}"), |b| declare(b, i)))).collect()
}

impl Backbone for Encoder {
    fn blocks(&self) -> usize {
        1 + self.design.layers.len()
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if block > 0 {
            let layer = &self.blocks[self.design.layers[block - 1]];
            let attended = layer.attention.forward(ctx, &input[0], batch);
            if self.is_of_first(block) {
                return vec![layer.after_first(ctx, attended, &input[0], &batch.sequences)];
            }
            let x = layer.after(ctx, attended, &input[0], None);
            let convolution = self.convolution.as_ref().filter(|_| block == 1);
            return vec![convolution.map_or(x.shallow_clone(), |c| c.forward(ctx, &input[0], &x, &batch.sequences))];
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
        let pooler = self.pooler.as_ref().expect("this task head has a pooler");
        match self.only_first {
            true => pooler.of_rows(ctx, &hidden[0]),
            false => pooler.forward(ctx, &hidden[0], &batch.sequences),
        }
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
        self.embeddings.max_length()
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
            Some(layer) => {
                let convolution = self.convolution.as_ref().filter(|_| layer == 0);
                let convolution = convolution.map(|convolution| convolution.cost(how, x.own.tokens));
                let block = &self.blocks[self.design.layers[layer]];
                let attention = block.attention.cost(how, &x.own);
                let cost = match self.is_of_first(layer + 1) {
                    true => block.cost_of_first(how, &x.own, attention),
                    false => block.cost_around(how, x.own.tokens, attention, None),
                };
                cost.then(convolution.unwrap_or_default())
            }
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
            (Reads::Summary, _) if self.only_first => pooler::rows_cost(how, x, hidden),
            (Reads::Summary, _) => pooler::cost(how, x, hidden),
            _ => dropout::cost(how, x.own.tokens * hidden as f64, self.head_dropout),
        }
    }

    fn boundary(&self, block: usize, x: &Extents) -> f64 {
        let rows = if self.is_of_first(block) { x.own.sequences } else { x.own.tokens };
        rows * self.config.hidden_size as f64
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
