//! The output layer of a task head.

use crate::data::batch::Batch;
use crate::models::{Backbone, Boundary};
use crate::nn::linear::{HeadInput, Linear};
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use tch::Tensor;

/// A linear layer on the backbone's pooled output or token features: `classifier`.
#[derive(Debug)]
pub struct Classifier(Linear);

impl Classifier {
    /// Declares the layer in the builder's block.
    pub fn new(outputs: usize, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        Self::on(backbone.head_input(), outputs, b)
    }

    /// Declares the layer for a known input.
    pub(super) fn on(input: HeadInput, outputs: usize, b: &mut ParamBuilder) -> Self {
        Classifier(Linear::head(b, input, outputs as i64))
    }

    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        self.0.cost(how, rows, true)
    }

    /// Returns the scores of each sequence `[B, outputs]` from its pooled output.
    pub fn of_sequences(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let summary = backbone.summary(hidden, batch, ctx);
        self.0.forward(ctx, &summary)
    }

    /// Returns the scores of each token `[T, outputs]`, or of those at `positions`, i64 `[n]`: `[n, outputs]`.
    pub fn of_tokens(
        &self,
        backbone: &dyn Backbone,
        hidden: &Boundary,
        positions: Option<&Tensor>,
        ctx: &mut Ctx,
    ) -> Tensor {
        let features = backbone.features(hidden, ctx);
        let chosen = positions.map(|positions| features.index_select(0, positions));
        self.0.forward(ctx, chosen.as_ref().unwrap_or(&features))
    }
}
