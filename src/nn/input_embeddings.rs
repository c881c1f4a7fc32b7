//! Input embeddings: token, position and segment.

use crate::nn::embedding::{self, Embedding};
use crate::nn::norm::Norm;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::dropout;
use tch::Tensor;

/// Configuration of [`InputEmbeddings`].
#[derive(Debug, Clone, Copy)]
pub struct InputConfig {
    pub vocab: i64,
    /// Number of position embeddings.
    pub positions: i64,
    /// The position of a sequence's first token.
    pub first_position: i64,
    /// Number of segment embeddings, if there are any.
    pub segments: Option<i64>,
    pub width: i64,
    /// The factor of token embeddings.
    pub scale: f64,
    pub norm_eps: f64,
    pub dropout: f64,
    /// Standard deviation of newly initialized embeddings.
    pub std: f64,
    /// Whether the gradient of the token embeddings is dense: a head shares them, or tokens that are not in the batch are
    /// looked up too.
    pub dense: bool,
}

/// The normalized sum of token, position and segment embeddings (arXiv 1810.04805, figure 2).
#[derive(Debug)]
pub struct InputEmbeddings {
    config: InputConfig,
    words: Embedding,
    positions: Embedding,
    segments: Option<Embedding>,
    norm: Norm,
}

impl InputEmbeddings {
    /// Declares `embeddings.words`, `positions`, `segments` and `norm`.
    pub fn new(b: &mut ParamBuilder, config: InputConfig) -> Self {
        let InputConfig { vocab, width, std, dense, .. } = config;
        let words = b.scope("embeddings", |b| Embedding::words(b, "words", vocab, width, std, dense));
        Self::with_words(b, config, words)
    }

    /// Declares the same but `words`, which are given.
    pub fn with_words(b: &mut ParamBuilder, config: InputConfig, words: Embedding) -> Self {
        let InputConfig { positions, segments, width, std, norm_eps, .. } = config;
        b.scope("embeddings", |b| InputEmbeddings {
            config,
            words,
            positions: Embedding::new(b, "positions", positions, width, std),
            segments: segments.map(|rows| Embedding::new(b, "segments", rows, width, std)),
            norm: Norm::layer(b, "norm", width, norm_eps),
        })
    }

    /// The input embedding matrix.
    pub fn words(&self) -> &Embedding {
        &self.words
    }

    /// The maximum length of a sequence, in tokens.
    pub fn max_length(&self) -> usize {
        (self.config.positions - self.config.first_position) as usize
    }

    /// Returns the cost for this many tokens; the rows of each embedding and their sum are kept.
    pub fn cost(&self, how: &ComputeMode, tokens: f64) -> Cost {
        let numbers = tokens * self.config.width as f64;
        let tables = 2 + usize::from(self.segments.is_some());
        let normed = self.norm.cost(how, tokens, true).then(dropout::cost(how, numbers, self.config.dropout));
        embedding::cost(how, numbers, tables, 0.0).then(normed)
    }

    /// Token ids, positions from 0 and segments, i64 `[T]` each, to `[T, width]`; `noise` as for [`Embedding::tokens`].
    pub fn forward(
        &self,
        ctx: &mut Ctx,
        [tokens, positions, segments]: [&Tensor; 3],
        noise: Option<[&Tensor; 2]>,
    ) -> Tensor {
        let words = self.words.tokens(ctx, tokens, noise);
        let words = if self.config.scale == 1.0 { words } else { words * self.config.scale };
        let sum = match &self.segments {
            Some(table) => words + table.forward(ctx, segments),
            None => words,
        };
        let positions = positions + self.config.first_position;
        let sum = sum + self.positions.forward(ctx, &positions);
        ctx.dropout(self.norm.forward(ctx, &sum), self.config.dropout)
    }
}
