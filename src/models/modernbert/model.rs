//! The blocks of ModernBERT: normalized token embeddings, then one block per layer; the final norm and the layers
//! before the output layer run in the head's block, on the rows that it needs.

use super::config::Config;
use super::hf_names;
use crate::data::batch::{Batch, Noise};
use crate::data::extent::Extents;
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::{Backbone, Boundary, Reads, Role};
use crate::nn::Ctx;
use crate::nn::embedding::{self, Embedding};
use crate::nn::linear::HeadInput;
use crate::nn::lm_head::{MaskedLmConfig, MaskedLmHead};
use crate::nn::norm::Norm;
use crate::nn::pooler::{self, Picks};
use crate::nn::pre_norm::PreNormBlock;
use crate::nn::prediction_head::PredictionHead;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::dropout;
use serde_json::Value;
use tch::Tensor;

/// A ModernBERT without a task's layer.
#[derive(Debug)]
pub struct ModernBert {
    config: Config,
    json: Value,
    role: Role,
    words: Embedding,
    embedding_norm: Norm,
    layers: Vec<PreNormBlock>,
    norm: Norm,
    head: Head,
}

/// What is between the final norm and the result.
#[derive(Debug)]
enum Head {
    MaskedLm(MaskedLmHead),
    /// Before a task's layer.
    Task(PredictionHead),
    /// Of sentence embeddings.
    None,
}

impl ModernBert {
    /// Declares the parameters: block 0 the embeddings, blocks 1 to L the layers, block L + 1 the final norm and the
    /// head.
    pub fn new(config: Config, plan: Plan) -> Self {
        let Plan { json, role, builder: b, .. } = plan;
        let keys = &config.keys;
        let (vocab, hidden, eps, kind) = (keys.vocab_size, keys.hidden_size, keys.norm_eps, config.norm());
        let (is_lm, tied) = (role == Role::MaskedLm, keys.tie_word_embeddings);
        let (words, embedding_norm) = b.scope("embeddings", |b| {
            let words = Embedding::words(b, "words", vocab, hidden, config.std(), is_lm && tied);
            (words, Norm::new(b, "norm", kind, hidden, eps))
        });
        let layer =
            |i: usize| b.block(i + 1, |b| b.scope(&format!("layer.{i}"), |b| PreNormBlock::new(b, config.block(i))));
        let layers: Vec<PreNormBlock> = (0..config.slides.len()).map(layer).collect();
        let (norm, head) = b.block(layers.len() + 1, |b| {
            let norm = Norm::new(b, "norm", kind, hidden, eps);
            let head = match role {
                Role::MaskedLm => {
                    let config = MaskedLmConfig { head: config.head(), vocab, bias: keys.decoder_bias, tied };
                    Head::MaskedLm(MaskedLmHead::new(b, config, &words))
                }
                Role::Embedding => Head::None,
                _ => Head::Task(b.newly_initialized(|b| PredictionHead::new(b, "head", config.head()))),
            };
            (norm, head)
        });
        ModernBert { config, json, role, words, embedding_norm, layers, norm, head }
    }

    /// Normalized rows of the hidden states through the layers before a task's layer.
    fn task_input(&self, rows: &Tensor, ctx: &mut Ctx) -> Tensor {
        let Head::Task(head) = &self.head else { panic!("this task head has a vocabulary") };
        let x = head.forward(ctx, rows);
        ctx.dropout(x, self.config.keys.classifier_dropout)
    }
}

impl Backbone for ModernBert {
    fn blocks(&self) -> usize {
        1 + self.layers.len()
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        let Some(layer) = block.checked_sub(1) else {
            let words = self.words.tokens(ctx, &batch.tokens, batch.noise.as_ref().map(Noise::tensors));
            let x = self.embedding_norm.forward(ctx, &words);
            return vec![ctx.dropout(x, self.config.keys.embedding_dropout)];
        };
        let rotary = &self.config.rotary[usize::from(self.config.slides[layer])];
        let angles = rotary.angles(&batch.sequences, input[0].kind());
        vec![self.layers[layer].forward(ctx, &input[0], &batch.sequences, Some(&angles))]
    }

    fn summary(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let rows = match self.config.picks() {
            Picks::Mean => Picks::Mean.of(&self.norm.forward(ctx, &hidden[0]), &batch.sequences),
            one => self.norm.forward(ctx, &one.of(&hidden[0], &batch.sequences)),
        };
        self.task_input(&rows, ctx)
    }

    fn features(&self, hidden: &Boundary, ctx: &mut Ctx) -> Tensor {
        let rows = self.norm.forward(ctx, &hidden[0]);
        match self.head {
            Head::None => rows,
            _ => self.task_input(&rows, ctx),
        }
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Projection {
        let Head::MaskedLm(head) = &self.head else { panic!("this task head has no vocabulary") };
        let rows = self.norm.forward(ctx, rows);
        head.forward(ctx, &rows)
    }

    fn head_input(&self) -> HeadInput {
        let width = self.config.keys.hidden_size;
        HeadInput { width, std: (width as f64).powf(-0.5), bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        Some(self.config.keys.max_position_embeddings as usize)
    }

    fn vocab_size(&self) -> usize {
        self.config.keys.vocab_size as usize
    }

    fn segments(&self) -> usize {
        usize::MAX
    }

    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        let Some(layer) = block.checked_sub(1) else {
            let numbers = x.own.tokens * self.config.keys.hidden_size as f64;
            let normed = embedding::cost(how, numbers, 1, 0.0).then(self.embedding_norm.cost(how, x.own.tokens, true));
            return normed.then(dropout::cost(how, numbers, self.config.keys.embedding_dropout));
        };
        self.layers[layer].cost(how, &x.own, true)
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost {
        let (hidden, tokens) = (self.config.keys.hidden_size, x.own.tokens);
        // The mean of fp32 rows keeps them and, if it is rounded then, itself.
        let normed = || self.norm.cost(how, tokens, false);
        let means = if how.element() < 4.0 { x.own.sequences } else { 0.0 };
        let averaged = Cost::keep(4.0 * (tokens + means) * hidden as f64);
        match (reads, &self.head) {
            (_, Head::MaskedLm(head)) => self.norm.cost(how, x.targets, true).then(head.cost(how, x.targets)),
            (Reads::Summary, _) if self.config.picks() != Picks::Mean => pooler::cost(how, x, hidden),
            (Reads::Summary, _) => normed().then(averaged).then(pooler::cost(how, x, hidden)),
            (_, Head::Task(head)) => {
                let drops = dropout::cost(how, tokens * hidden as f64, self.config.keys.classifier_dropout);
                normed().then(head.cost(how, tokens)).then(drops)
            }
            // In half precision the task counts the rows in fp32.
            (_, Head::None) if how.element() < 4.0 => normed(),
            (_, Head::None) => normed().then(averaged),
        }
    }

    fn hf_names(&self) -> HfNames {
        let (head, tied) = match self.head {
            Head::MaskedLm(_) => ("lm_head", self.config.keys.tie_word_embeddings),
            Head::Task(_) | Head::None => ("head", false),
        };
        hf_names::names(self.layers.len(), head, tied, self.role == Role::Embedding)
    }

    fn architecture(&self) -> String {
        format!("ModernBert{}", self.role.ending())
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
