//! A text as one vector.

use crate::data::ragged::Sequences;
use crate::nn::blocks::Activation;
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// The first token of each sequence through a dense layer and its activation (arXiv 1810.04805, section 3.2).
#[derive(Debug)]
pub struct Pooler {
    dense: Linear,
    config: PoolerConfig,
}

/// What a [`Pooler`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct PoolerConfig {
    pub hidden: i64,
    pub activation: Activation,
    /// Dropout on the first token.
    pub dropout_before: f64,
    /// Dropout on the result.
    pub dropout: f64,
    pub std: f64,
}

impl Pooler {
    /// Declares `pooler`, which starts fresh where the file has none.
    pub fn new(b: &mut ParamBuilder, config: PoolerConfig) -> Self {
        let PoolerConfig { hidden, std, .. } = config;
        b.fresh(|b| Pooler { dense: Linear::new(b, "pooler", hidden, hidden, std), config })
    }

    /// `[T, hidden]` to `[S, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, hidden: &Tensor, sequences: &Sequences) -> Tensor {
        let first = ctx.dropout(hidden.index_select(0, sequences.first()), self.config.dropout_before);
        let pooled = self.config.activation.forward(&self.dense.forward(ctx, &first));
        ctx.dropout(pooled, self.config.dropout)
    }
}
