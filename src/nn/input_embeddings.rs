//! Input embeddings: token, position and segment.

use crate::nn::embedding::{self, Embedding};
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::dropout;
use tch::Tensor;

/// Configuration of [`InputEmbeddings`].
#[derive(Debug, Clone, Copy)]
pub struct InputConfig {
    pub vocab: i64,
    /// Number of position embeddings and the position of a sequence's first token, if there are any.
    pub positions: Option<[i64; 2]>,
    /// Number of segment embeddings, if there are any.
    pub segments: Option<i64>,
    pub width: i64,
    /// The factor of token embeddings.
    pub scale: f64,
    /// The width to which a matrix projects the sum before its norm, if one does.
    pub projects: Option<i64>,
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
    /// With the position of a sequence's first token.
    positions: Option<(Embedding, i64)>,
    segments: Option<Embedding>,
    widen: Option<Linear>,
    norm: Norm,
}

impl InputEmbeddings {
    /// Declares `embeddings.words`, `positions`, `segments`, `widen` and `norm`.
    pub fn new(b: &mut ParamBuilder, config: InputConfig) -> Self {
        let InputConfig { vocab, width, std, dense, .. } = config;
        let words = b.scope("embeddings", |b| Embedding::words(b, "words", vocab, width, std, dense));
        Self::with_words(b, config, words)
    }

    /// Declares the same but `words`, which are given.
    pub fn with_words(b: &mut ParamBuilder, config: InputConfig, words: Embedding) -> Self {
        let InputConfig { positions, segments, width, projects, std, norm_eps, .. } = config;
        b.scope("embeddings", |b| InputEmbeddings {
            config,
            words,
            positions: positions.map(|[count, first]| (Embedding::new(b, "positions", count, width, std), first)),
            segments: segments.map(|rows| Embedding::new(b, "segments", rows, width, std)),
            widen: projects.map(|to| Linear::without_bias(b, "widen", width, to, std)),
            norm: Norm::layer(b, "norm", projects.unwrap_or(width), norm_eps),
        })
    }

    /// The input embedding matrix.
    pub fn words(&self) -> &Embedding {
        &self.words
    }

    /// The maximum length of a sequence, in tokens; `None` without position embeddings.
    pub fn max_length(&self) -> Option<usize> {
        self.config.positions.map(|[count, first]| (count - first) as usize)
    }

    /// Returns the cost for this many tokens; the rows of each embedding and their sum are kept.
    pub fn cost(&self, how: &ComputeMode, tokens: f64) -> Cost {
        let (numbers, normed) = (tokens * self.config.width as f64, tokens * self.norm.size() as f64);
        let tables = 1 + usize::from(self.positions.is_some()) + usize::from(self.segments.is_some());
        let widened = self.widen.as_ref().map(|widen| widen.cost(how, tokens, true));
        let rows = embedding::cost(how, numbers, tables, 0.0).then(widened.unwrap_or_default());
        rows.then(self.norm.cost(how, tokens, true)).then(dropout::cost(how, normed, self.config.dropout))
    }

    /// Token ids, positions from 0 and segments, i64 `[T]` each, to `[T, width]` or the projected width; `noise` as for
    /// [`Embedding::tokens`].
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
        let sum = match &self.positions {
            Some((table, first)) => sum + table.forward(ctx, &(positions + *first)),
            None => sum,
        };
        let sum = self.widen.as_ref().map_or(sum.shallow_clone(), |widen| widen.forward(ctx, &sum));
        ctx.dropout(self.norm.forward(ctx, &sum), self.config.dropout)
    }
}
