//! The stages of BERT: embeddings, then one post-norm block a layer; the pooler runs with the head.

use crate::data::batch::Batch;
use crate::models::bert::Config;
use crate::models::bert::hf_names;
use crate::models::hf_names::HfNames;
use crate::models::registry::Plan;
use crate::models::{Backbone, Border, Role};
use crate::nn::Ctx;
use crate::nn::attention::{AttentionConfig, Reach};
use crate::nn::blocks::{BlockConfig, PostNormBlock};
use crate::nn::embedding::Embedding;
use crate::nn::linear::{HeadInput, Linear};
use crate::nn::lm_head::{MaskedLmConfig, MaskedLmHead};
use crate::nn::norm::LayerNorm;
use serde_json::Value;
use tch::Tensor;

/// BERT without a head.
#[derive(Debug)]
pub struct Bert {
    config: Config,
    json: Value,
    role: Role,
    words: Embedding,
    positions: Embedding,
    segments: Embedding,
    norm: LayerNorm,
    layers: Vec<PostNormBlock>,
    pooler: Option<Linear>,
    lm_head: Option<MaskedLmHead>,
}

impl Bert {
    /// Declares the parameters: stage 0 the embeddings, stages 1 to L the layers, stage L + 1 the pooler and the head of
    /// a language model, where the role has them.
    pub fn new(config: Config, plan: Plan) -> Self {
        let Plan { json, role, builder: b, .. } = plan;
        let is_lm = matches!(role, Role::MaskedLm | Role::PreTraining);
        let (hidden, std) = (config.hidden_size, config.initializer_range);
        let head_dim = hidden / config.num_attention_heads;
        let block = BlockConfig {
            hidden,
            intermediate: config.intermediate_size,
            attention: AttentionConfig {
                heads: config.num_attention_heads,
                kv_heads: config.num_attention_heads,
                head_dim,
                scale: 1.0 / (head_dim as f64).sqrt(),
                dropout: config.attention_probs_dropout_prob,
                reach: Reach::All,
            },
            activation: config.activation,
            dropout: config.hidden_dropout_prob,
            norm_eps: config.layer_norm_eps,
            std,
        };
        let (words, positions, segments, norm) = b.scope("embeddings", |b| {
            (
                Embedding::words(b, "words", config.vocab_size, hidden, std, is_lm && config.tie_word_embeddings),
                Embedding::new(b, "positions", config.max_position_embeddings, hidden, std),
                Embedding::new(b, "segments", config.type_vocab_size, hidden, std),
                LayerNorm::new(b, "norm", hidden, config.layer_norm_eps),
            )
        });
        let layers = (0..config.num_hidden_layers)
            .map(|i| b.stage(i + 1, |b| b.scope(&format!("layer.{i}"), |b| PostNormBlock::new(b, block))))
            .collect();
        let (pooler, lm_head) = b.stage(config.num_hidden_layers + 1, |b| {
            let pools = matches!(role, Role::SequenceClassification | Role::MultipleChoice | Role::PreTraining);
            let pooler = pools.then(|| b.fresh(|b| Linear::new(b, "pooler", hidden, hidden, std)));
            let head = MaskedLmConfig {
                hidden,
                embedding: hidden,
                vocab: config.vocab_size,
                activation: config.activation,
                norm_eps: config.layer_norm_eps,
                std,
                tied: config.tie_word_embeddings,
            };
            (pooler, is_lm.then(|| MaskedLmHead::new(b, head, &words)))
        });
        Bert { config, json, role, words, positions, segments, norm, layers, pooler, lm_head }
    }
}

impl Backbone for Bert {
    fn stages(&self) -> usize {
        1 + self.layers.len()
    }

    fn forward(&self, stage: usize, input: &Border, batch: &Batch, ctx: &mut Ctx) -> Border {
        if stage > 0 {
            return vec![self.layers[stage - 1].forward(ctx, &input[0], &batch.sequences)];
        }
        let sum = self.words.forward(ctx, &batch.tokens)
            + self.segments.forward(ctx, &batch.segments)
            + self.positions.forward(ctx, &batch.positions);
        let x = self.norm.forward(ctx, &sum);
        vec![ctx.dropout(x, self.config.hidden_dropout_prob)]
    }

    fn summary(&self, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let pooler = self.pooler.as_ref().expect("this role has a pooler");
        let first = hidden[0].index_select(0, batch.sequences.first());
        let pooled = pooler.forward(ctx, &first).tanh();
        // Next sentences are told without dropout.
        if self.role == Role::PreTraining { pooled } else { ctx.dropout(pooled, self.config.head_dropout()) }
    }

    fn features(&self, hidden: &Border, ctx: &mut Ctx) -> Tensor {
        let p = if self.role == Role::TokenClassification { self.config.head_dropout() } else { 0.0 };
        ctx.dropout(hidden[0].shallow_clone(), p)
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Tensor {
        self.lm_head.as_ref().expect("this role has a language model's head").forward(ctx, rows)
    }

    fn head_input(&self) -> HeadInput {
        HeadInput { width: self.config.hidden_size, std: self.config.initializer_range, bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        Some(self.config.max_position_embeddings as usize)
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }

    fn segments(&self) -> usize {
        self.config.type_vocab_size as usize
    }

    fn activations(&self, stage: usize, tokens: u64, longest: u64) -> u64 {
        let hidden = self.config.hidden_size as u64;
        match stage.checked_sub(1).and_then(|layer| self.layers.get(layer)) {
            Some(layer) => layer.activations(tokens, longest),
            // Three rows and their sum, then the norm.
            None => 5 * hidden * tokens,
        }
    }

    fn hf_names(&self) -> HfNames {
        hf_names::names(self.config.num_hidden_layers, self.role)
    }

    fn architecture(&self) -> String {
        format!("Bert{}", self.role.ending())
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
