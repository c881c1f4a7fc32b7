//! What a model makes of a token before its layers.

use crate::nn::cost::{Cost, How};
use crate::nn::embedding::{self, Embedding};
use crate::nn::norm::LayerNorm;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// What [`InputEmbeddings`] need to know.
#[derive(Debug, Clone, Copy)]
pub struct InputConfig {
    pub vocab: i64,
    /// Rows of the table of positions.
    pub positions: i64,
    /// The row of a sequence's first token; the next ones follow.
    pub first_position: i64,
    /// Rows of the table of segments, if there is one.
    pub segments: Option<i64>,
    pub width: i64,
    pub norm_eps: f64,
    pub dropout: f64,
    /// Standard deviation of fresh tables.
    pub std: f64,
    /// Whether a head shares the table of token ids.
    pub tied: bool,
}

/// The sum of what tables know of a token, its position and its segment, normed (arXiv 1810.04805, figure 2).
#[derive(Debug)]
pub struct InputEmbeddings {
    config: InputConfig,
    words: Embedding,
    positions: Embedding,
    segments: Option<Embedding>,
    norm: LayerNorm,
}

impl InputEmbeddings {
    /// Declares `embeddings.words`, `positions`, `segments` and `norm`.
    pub fn new(b: &mut ParamBuilder, config: InputConfig) -> Self {
        let InputConfig { vocab, positions, segments, width, std, norm_eps, tied, .. } = config;
        b.scope("embeddings", |b| InputEmbeddings {
            config,
            words: Embedding::words(b, "words", vocab, width, std, tied),
            positions: Embedding::new(b, "positions", positions, width, std),
            segments: segments.map(|rows| Embedding::new(b, "segments", rows, width, std)),
            norm: LayerNorm::new(b, "norm", width, norm_eps),
        })
    }

    /// The table of token ids.
    pub fn words(&self) -> &Embedding {
        &self.words
    }

    /// The longest sequence, in tokens.
    pub fn max_length(&self) -> usize {
        (self.config.positions - self.config.first_position) as usize
    }

    /// What so many tokens cost: kept are each table's rows and their sum.
    pub fn cost(&self, how: &How, tokens: f64) -> Cost {
        let numbers = tokens * self.config.width as f64;
        let tables = 2 + usize::from(self.segments.is_some());
        let normed = self.norm.cost(how, tokens, true).then(Cost::dropout(how, numbers, self.config.dropout));
        embedding::cost(how, numbers, tables, 0.0).then(normed)
    }

    /// Token ids, positions from 0 and segments, i64 `[T]` each, to `[T, width]`.
    pub fn forward(&self, ctx: &mut Ctx, tokens: &Tensor, positions: &Tensor, segments: &Tensor) -> Tensor {
        let words = self.words.forward(ctx, tokens);
        let sum = match &self.segments {
            Some(table) => words + table.forward(ctx, segments),
            None => words,
        };
        let positions = positions + self.config.first_position;
        let sum = sum + self.positions.forward(ctx, &positions);
        ctx.dropout(self.norm.forward(ctx, &sum), self.config.dropout)
    }
}
