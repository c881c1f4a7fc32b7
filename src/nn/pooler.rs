//! Pooling: a sequence as one vector.

use crate::data::extent::Extents;
use crate::data::ragged::Sequences;
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::gated::activation::Activation;
use crate::ops::linear;
use tch::{Kind, Tensor};

/// Pooled tokens of each sequence through a dense layer and its activation (arXiv 1810.04805, section 3.2).
#[derive(Debug)]
pub struct Pooler {
    dense: Option<Linear>,
    config: PoolerConfig,
}

/// The token that represents a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picks {
    First,
    Last,
    /// The mean of all tokens.
    Mean,
}

/// Configuration of a [`Pooler`].
#[derive(Debug, Clone, Copy)]
pub struct PoolerConfig {
    pub hidden: i64,
    pub picks: Picks,
    /// Whether there is a dense layer.
    pub dense: bool,
    pub activation: Option<Activation>,
    /// Dropout on the pooled vector.
    pub dropout_before: f64,
    /// Dropout on the result.
    pub dropout: f64,
    pub std: f64,
}

/// Returns the cost of pooling: some vectors and a matmul per sequence, and in backward the gradient of all hidden
/// states.
pub fn cost(how: &ComputeMode, x: &Extents, hidden: i64) -> Cost {
    let e = how.element();
    let (rows, all) = (e * x.own.sequences * hidden as f64, e * x.own.tokens * hidden as f64);
    Cost::op(rows, all, rows, [0.0; 2]).then(rows_cost(how, x, hidden))
}

/// Returns the cost of [`Pooler::of_rows`].
pub fn rows_cost(how: &ComputeMode, x: &Extents, hidden: i64) -> Cost {
    linear::cost(how, x.own.sequences, [hidden, hidden], true)
}

impl Pooler {
    /// Declares `pooler`, a dense layer that is newly initialized if the file lacks it.
    pub fn new(b: &mut ParamBuilder, config: PoolerConfig) -> Self {
        let PoolerConfig { hidden, dense, std, .. } = config;
        let dense = dense.then(|| b.newly_initialized(|b| Linear::new(b, "pooler", hidden, hidden, std)));
        Pooler { dense, config }
    }

    /// `[T, hidden]` to `[S, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, hidden: &Tensor, sequences: &Sequences) -> Tensor {
        self.of_rows(ctx, &self.config.picks.of(hidden, sequences))
    }

    /// The same from the picked tokens: `[S, hidden]` to `[S, hidden]`.
    pub fn of_rows(&self, ctx: &mut Ctx, picked: &Tensor) -> Tensor {
        let picked = ctx.dropout(picked.shallow_clone(), self.config.dropout_before);
        let dense = self.dense.as_ref().map_or(picked.shallow_clone(), |dense| dense.forward(ctx, &picked));
        let pooled = self.config.activation.map_or(dense.shallow_clone(), |f| f.forward(&dense));
        ctx.dropout(pooled, self.config.dropout)
    }
}

impl Picks {
    /// `[T, width]` to `[S, width]`.
    pub fn of(self, hidden: &Tensor, sequences: &Sequences) -> Tensor {
        match self {
            Picks::First => hidden.index_select(0, sequences.first()),
            Picks::Last => hidden.index_select(0, sequences.last()),
            Picks::Mean => means(hidden, sequences),
        }
    }
}

/// The mean of each sequence's rows: `[T, width]` to `[S, width]`.
fn means(x: &Tensor, sequences: &Sequences) -> Tensor {
    let lengths = sequences.last() - sequences.first() + 1;
    // Sums in half precision would round; `true`: the lengths are right, and checking them would wait for the GPU.
    let wide = x.to_kind(Kind::Float);
    let means = Tensor::segment_reduce(&wide, "mean", Some(&lengths), None, None, 0, true, 0.0);
    means.to_kind(x.kind())
}
