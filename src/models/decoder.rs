//! Decoder-only models: token embeddings, pre-norm blocks with a causal mask, and a final norm, which runs with the
//! head on the rows that the head needs.

use crate::data::batch::{Batch, Noise};
use crate::data::extent::Extents;
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::{Backbone, Boundary, Reads, Role};
use crate::nn::Ctx;
use crate::nn::embedding::{self, Embedding};
use crate::nn::linear::HeadInput;
use crate::nn::lm_head::Vocabulary;
use crate::nn::norm::Norm;
use crate::nn::pooler;
use crate::nn::pre_norm::{PreNormBlock, PreNormConfig};
use crate::nn::rotary::Rotary;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::dropout;
use serde_json::Value;
use tch::Tensor;

/// A family's model for a task head.
#[derive(Debug)]
pub struct DecoderConfig {
    pub vocab: i64,
    /// Maximum length of a sequence.
    pub max_length: i64,
    pub positions: Positions,
    /// One per layer; the final norm is like the first layer's.
    pub blocks: Vec<PreNormConfig>,
    /// Dropout on the embeddings, and before a task's layer.
    pub dropout: f64,
    pub head_dropout: f64,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
    /// Whether the language-model head is tied to the input embeddings.
    pub tied: bool,
    pub names: HfNames,
    pub architecture: String,
}

/// Position encoding.
#[derive(Debug)]
pub enum Positions {
    /// Learned position embeddings, one row per position up to `max_length`.
    Learnt,
    /// Rotary position embeddings.
    Rotary(Rotary),
}

/// A decoder-only model without a task's layer.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    json: Value,
    role: Role,
    hidden: i64,
    words: Embedding,
    position_embeddings: Option<Embedding>,
    layers: Vec<PreNormBlock>,
    norm: Norm,
    vocabulary: Option<Vocabulary>,
}

impl Decoder {
    /// Declares the parameters: block 0 the embeddings, blocks 1 to L the layers, block L + 1 the final norm and the
    /// language-model head, if any.
    pub fn new(config: DecoderConfig, plan: Plan) -> Self {
        let Plan { json, role, builder: b, .. } = plan;
        let PreNormConfig { norm, norm_eps, attention, .. } = config.blocks[0];
        let (hidden, std, vocab) = (attention.hidden, config.std, config.vocab);
        let is_lm = role == Role::CausalLm;
        let learnt = matches!(config.positions, Positions::Learnt);
        let (words, position_embeddings) = b.scope("embeddings", |b| {
            let words = Embedding::words(b, "words", vocab, hidden, std, is_lm && config.tied);
            (words, learnt.then(|| Embedding::new(b, "positions", config.max_length, hidden, std)))
        });
        let block = |(i, &block): (usize, &PreNormConfig)| {
            b.block(i + 1, |b| b.scope(&format!("layer.{i}"), |b| PreNormBlock::new(b, block)))
        };
        let layers: Vec<PreNormBlock> = config.blocks.iter().enumerate().map(block).collect();
        let (norm, vocabulary) = b.block(layers.len() + 1, |b| {
            let norm = Norm::new(b, "norm", norm, hidden, norm_eps);
            let vocabulary = is_lm.then(|| match config.tied {
                true => Vocabulary::tied(b, &words),
                // A pretrained language model has learnt its head: it is never a new one.
                false => Vocabulary::own(b, "lm_head", vocab, hidden, std),
            });
            (norm, vocabulary)
        });
        Decoder { config, json, role, hidden, words, position_embeddings, layers, norm, vocabulary }
    }
}

/// Returns why a decoder-only model does not support a task head.
pub fn refusal(role: Role) -> Option<&'static str> {
    match role {
        Role::MaskedLm | Role::PreTraining => Some("its attention is causal; use causal-lm"),
        Role::Seq2Seq => Some("it has no encoder; use causal-lm or chat, or a T5 or BART model"),
        Role::MultipleChoice => {
            Some("transformers has no such class for it that could load the result; use an encoder such as BERT")
        }
        _ => None,
    }
}

/// Returns the dropout before a task's layer: the run's setting, otherwise as in transformers' class; `file` has
/// `classifier_dropout` and `hidden_dropout`.
pub fn head_dropout(role: Role, asked: Option<f64>, file: [Option<f64>; 2]) -> f64 {
    let of_class = match role {
        Role::TokenClassification => file[0].or(file[1]).unwrap_or(0.1),
        _ => 0.0,
    };
    asked.unwrap_or(of_class)
}

impl Backbone for Decoder {
    fn blocks(&self) -> usize {
        1 + self.layers.len()
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if block > 0 {
            let angles = match &self.config.positions {
                Positions::Learnt => None,
                Positions::Rotary(rotary) => Some(rotary.angles(&batch.sequences, input[0].kind())),
            };
            return vec![self.layers[block - 1].forward(ctx, &input[0], &batch.sequences, angles.as_ref())];
        }
        let words = self.words.tokens(ctx, &batch.tokens, batch.noise.as_ref().map(Noise::tensors));
        let x = match &self.position_embeddings {
            Some(position_embeddings) => words + position_embeddings.forward(ctx, batch.sequences.positions()),
            None => words,
        };
        vec![ctx.dropout(x, self.config.dropout)]
    }

    /// The last token's state: only the last token attends to the whole text.
    fn summary(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let normed = self.norm.forward(ctx, &hidden[0].index_select(0, batch.sequences.last()));
        ctx.dropout(normed, self.config.head_dropout)
    }

    fn features(&self, hidden: &Boundary, ctx: &mut Ctx) -> Tensor {
        let normed = self.norm.forward(ctx, &hidden[0]);
        ctx.dropout(normed, self.config.head_dropout)
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Projection {
        let normed = self.norm.forward(ctx, rows);
        self.vocabulary.as_ref().expect("this task head has a vocabulary").forward(ctx, normed)
    }

    fn head_input(&self) -> HeadInput {
        HeadInput { width: self.hidden, std: self.config.std, bias: self.role != Role::SequenceClassification }
    }

    fn max_length(&self) -> Option<usize> {
        Some(self.config.max_length as usize)
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab as usize
    }

    fn segments(&self) -> usize {
        usize::MAX
    }

    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        let turns = matches!(self.config.positions, Positions::Rotary(_));
        let numbers = x.own.tokens * self.hidden as f64;
        match block.checked_sub(1) {
            Some(layer) => self.layers[layer].cost(how, &x.own, turns),
            None => embedding::cost(how, numbers, if turns { 1 } else { 2 }, self.config.dropout),
        }
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost {
        match (reads, &self.vocabulary) {
            (Reads::Vocabulary, Some(vocabulary)) => {
                self.norm.cost(how, x.targets, true).then(vocabulary.cost(how, x.targets))
            }
            (Reads::Summary, _) => pooler::cost(how, x, self.hidden),
            _ => {
                let drops = dropout::cost(how, x.own.tokens * self.hidden as f64, self.config.head_dropout);
                self.norm.cost(how, x.own.tokens, false).then(drops)
            }
        }
    }

    fn hf_names(&self) -> HfNames {
        self.config.names.clone()
    }

    fn architecture(&self) -> String {
        self.config.architecture.clone()
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
