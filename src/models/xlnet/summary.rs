//! A text as one vector: transformers' `XLNetSequenceSummary`.

use crate::data::ragged::Sequences;
use crate::nn::blocks::Activation;
use crate::nn::linear::Linear;
use crate::nn::{Ctx, ParamBuilder};
use tch::{Kind, Tensor};

/// The tokens of a sequence that stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picks {
    First,
    /// XLNet's tokenizer puts `<cls>` there.
    Last,
    /// The mean of all.
    Mean,
}

/// What a [`Summary`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct SummaryConfig {
    pub hidden: i64,
    pub picks: Picks,
    /// Whether a linear layer follows.
    pub projects: bool,
    pub activation: Option<Activation>,
    /// Dropout before the linear layer.
    pub dropout_before: f64,
    /// Dropout on the result.
    pub dropout: f64,
    /// Standard deviation of fresh matrices.
    pub std: f64,
}

/// Picked tokens through a linear layer and an activation, both of which may be left out.
#[derive(Debug)]
pub struct Summary {
    config: SummaryConfig,
    projection: Option<Linear>,
}

impl Summary {
    /// Declares `summary`, which starts fresh where the file has none.
    pub fn new(b: &mut ParamBuilder, config: SummaryConfig) -> Self {
        let SummaryConfig { hidden, projects, std, .. } = config;
        let projection = projects.then(|| b.fresh(|b| Linear::new(b, "summary", hidden, hidden, std)));
        Summary { config, projection }
    }

    /// `[T, hidden]` to `[S, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences) -> Tensor {
        let picked = match self.config.picks {
            Picks::First => x.index_select(0, sequences.first()),
            Picks::Last => x.index_select(0, &sequences.last()),
            Picks::Mean => means(x, sequences.lengths()),
        };
        let picked = ctx.dropout(picked, self.config.dropout_before);
        let projected = self.projection.as_ref().map_or(picked.shallow_clone(), |linear| linear.forward(ctx, &picked));
        let summary = self.config.activation.map_or(projected.shallow_clone(), |f| f.forward(&projected));
        ctx.dropout(summary, self.config.dropout)
    }
}

/// The mean of each sequence's rows: `[T, width]` to `[S, width]`.
fn means(x: &Tensor, lengths: &[i64]) -> Tensor {
    let means: Vec<Tensor> =
        x.split_with_sizes(lengths, 0).iter().map(|rows| rows.mean_dim(0, false, None::<Kind>)).collect();
    Tensor::stack(&means, 0)
}
