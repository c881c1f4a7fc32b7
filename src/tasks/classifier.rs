//! The task's own layer.

use crate::data::batch::Batch;
use crate::models::{Backbone, Boundary};
use crate::nn::linear::{HeadInput, Linear};
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use tch::Tensor;

/// A linear layer on what the backbone says of sequences or of tokens: `classifier`.
#[derive(Debug)]
pub struct Classifier(Linear);

impl Classifier {
    /// Declares it in the builder's stage.
    pub fn new(outputs: usize, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        Self::on(backbone.head_input(), outputs, b)
    }

    /// On an input that is known.
    pub(super) fn on(input: HeadInput, outputs: usize, b: &mut ParamBuilder) -> Self {
        Classifier(Linear::head(b, input, outputs as i64))
    }

    /// What so many rows cost.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        self.0.cost(how, rows, true)
    }

    /// Of each sequence `[B, outputs]`, from its summary.
    pub fn of_sequences(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let summary = backbone.summary(hidden, batch, ctx);
        self.0.forward(ctx, &summary)
    }

    /// Of each token `[T, outputs]`; of those at `places`, i64 `[n]`, alone: `[n, outputs]`.
    pub fn of_tokens(
        &self,
        backbone: &dyn Backbone,
        hidden: &Boundary,
        places: Option<&Tensor>,
        ctx: &mut Ctx,
    ) -> Tensor {
        let features = backbone.features(hidden, ctx);
        let chosen = places.map(|places| features.index_select(0, places));
        self.0.forward(ctx, chosen.as_ref().unwrap_or(&features))
    }
}
