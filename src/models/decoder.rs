//! What decoder-only families have in common: token embeddings, pre-norm blocks in which a token sees those before it, and
//! a last norm, which runs with the head on the rows that it looks at.

use crate::data::batch::Batch;
use crate::data::extent::Extents;
use crate::models::hf_names::HfNames;
use crate::models::family::Plan;
use crate::models::{Backbone, Border, Reads, Role};
use crate::nn::Ctx;
use crate::nn::cost::{Cost, How};
use crate::nn::embedding::{self, Embedding};
use crate::nn::linear::HeadInput;
use crate::nn::lm_head::Vocabulary;
use crate::nn::norm::Norm;
use crate::nn::pooler;
use crate::nn::pre_norm::{PreNormBlock, PreNormConfig};
use crate::nn::rotary::Rotary;
use serde_json::Value;
use tch::Tensor;

/// What a family says of its model.
#[derive(Debug)]
pub struct DecoderConfig {
    pub vocab: i64,
    /// The longest sequence.
    pub max_length: i64,
    pub positions: Positions,
    /// One for each layer; the last norm is as the first layer's.
    pub blocks: Vec<PreNormConfig>,
    /// Dropout on the embeddings, and on what a task's own layer sees.
    pub dropout: f64,
    pub head_dropout: f64,
    /// Standard deviation of fresh weights.
    pub std: f64,
    /// Whether the head of a language model is the table of token embeddings.
    pub tied: bool,
    pub names: HfNames,
    pub architecture: String,
}

/// How a token's position is told.
#[derive(Debug)]
pub enum Positions {
    /// By a table, one row for each place up to `max_length`.
    Learnt,
    /// By turning queries and keys.
    Rotary(Rotary),
}

/// A decoder-only model without a task's own layer.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    json: Value,
    role: Role,
    hidden: i64,
    words: Embedding,
    places: Option<Embedding>,
    layers: Vec<PreNormBlock>,
    norm: Norm,
    vocabulary: Option<Vocabulary>,
}

impl Decoder {
    /// Declares the parameters: stage 0 the embeddings, stages 1 to L the layers, stage L + 1 the last norm and, to tell the
    /// next token, the scores of the vocabulary.
    pub fn new(config: DecoderConfig, plan: Plan) -> Self {
        let Plan { json, role, builder: b, .. } = plan;
        let PreNormConfig { norm, norm_eps, attention, .. } = config.blocks[0];
        let (hidden, std, vocab) = (attention.hidden, config.std, config.vocab);
        let is_lm = role == Role::CausalLm;
        let learnt = matches!(config.positions, Positions::Learnt);
        let (words, places) = b.scope("embeddings", |b| {
            let words = Embedding::words(b, "words", vocab, hidden, std, is_lm && config.tied);
            (words, learnt.then(|| Embedding::new(b, "positions", config.max_length, hidden, std)))
        });
        let block = |(i, &block): (usize, &PreNormConfig)| {
            b.stage(i + 1, |b| b.scope(&format!("layer.{i}"), |b| PreNormBlock::new(b, block)))
        };
        let layers: Vec<PreNormBlock> = config.blocks.iter().enumerate().map(block).collect();
        let (norm, vocabulary) = b.stage(layers.len() + 1, |b| {
            let norm = Norm::new(b, "norm", norm, hidden, norm_eps);
            let vocabulary = is_lm.then(|| match config.tied {
                true => Vocabulary::tied(b, &words),
                false => b.fresh(|b| Vocabulary::own(b, "lm_head", vocab, hidden, std)),
            });
            (norm, vocabulary)
        });
        Decoder { config, json, role, hidden, words, places, layers, norm, vocabulary }
    }
}

/// Why a decoder-only model has no such head.
pub fn refusal(role: Role) -> Option<&'static str> {
    match role {
        Role::MaskedLm | Role::PreTraining => Some("a token sees only those before it; use causal-lm"),
        Role::Seq2Seq => Some("it has no encoder; use causal-lm or chat, or a T5 model"),
        Role::MultipleChoice => {
            Some("transformers has no such class of it, so nothing could load the result; use an encoder such as BERT")
        }
        _ => None,
    }
}

/// The dropout before a task's own layer: what the run asks for, else that of transformers' class, where `file` are
/// `classifier_dropout` and `hidden_dropout`.
pub fn head_dropout(role: Role, asked: Option<f64>, file: [Option<f64>; 2]) -> f64 {
    let of_class = match role {
        Role::TokenClassification => file[0].or(file[1]).unwrap_or(0.1),
        _ => 0.0,
    };
    asked.unwrap_or(of_class)
}

impl Backbone for Decoder {
    fn stages(&self) -> usize {
        1 + self.layers.len()
    }

    fn forward(&self, stage: usize, input: &Border, batch: &Batch, ctx: &mut Ctx) -> Border {
        if stage > 0 {
            let angles = match &self.config.positions {
                Positions::Learnt => None,
                Positions::Rotary(rotary) => Some(rotary.angles(&batch.sequences, input[0].kind())),
            };
            return vec![self.layers[stage - 1].forward(ctx, &input[0], &batch.sequences, angles.as_ref())];
        }
        let words = self.words.forward(ctx, &batch.tokens);
        let x = match &self.places {
            Some(places) => words + places.forward(ctx, batch.sequences.positions()),
            None => words,
        };
        vec![ctx.dropout(x, self.config.dropout)]
    }

    /// The last token's state: it alone has seen the whole text.
    fn summary(&self, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let normed = self.norm.forward(ctx, &hidden[0].index_select(0, batch.sequences.last()));
        ctx.dropout(normed, self.config.head_dropout)
    }

    fn features(&self, hidden: &Border, ctx: &mut Ctx) -> Tensor {
        let normed = self.norm.forward(ctx, &hidden[0]);
        ctx.dropout(normed, self.config.head_dropout)
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Tensor {
        let normed = self.norm.forward(ctx, rows);
        self.vocabulary.as_ref().expect("this role has a language model's head").forward(ctx, &normed)
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

    fn cost(&self, stage: usize, x: &Extents, how: &How) -> Cost {
        let turns = matches!(self.config.positions, Positions::Rotary(_));
        let numbers = x.own.tokens * self.hidden as f64;
        match stage.checked_sub(1) {
            Some(layer) => self.layers[layer].cost(how, &x.own, turns),
            None => embedding::cost(how, numbers, if turns { 1 } else { 2 }, self.config.dropout),
        }
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &How) -> Cost {
        match (reads, &self.vocabulary) {
            (Reads::Vocabulary, Some(vocabulary)) => {
                self.norm.cost(how, x.targets, true).then(vocabulary.cost(how, x.targets))
            }
            (Reads::Summary, _) => pooler::cost(how, x, self.hidden),
            _ => {
                let drops = Cost::dropout(how, x.own.tokens * self.hidden as f64, self.config.head_dropout);
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
