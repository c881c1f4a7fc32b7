//! The staged pass: forward cuts the graph at every stage's border, backward runs the stages in reverse.
//!
//! As soon as a stage's backward has ended its gradients are complete, and the caller may reduce them while the
//! earlier stages still compute. The gradients are those of one whole backward, bit for bit.

use crate::data::batch::Batch;
use crate::error::Result;
use crate::ffi;
use crate::models::Border;
use crate::nn::{Ctx, Params, Pass};
use crate::tasks::Model;
use tch::{Kind, Tensor};

/// A forward pass that waits for its backward.
pub struct Forward<'a> {
    stages: Vec<Stage<'a>>,
    losses: Tensor,
}

/// One stage's piece of the graph.
struct Stage<'a> {
    /// The border it got, as leaves.
    input: Border,
    output: Border,
    ctx: Ctx<'a>,
}

impl<'a> Forward<'a> {
    /// Runs every stage on `batch` with gradients and dropout.
    pub fn run(model: &Model, params: &'a Params, batch: &Batch, pass: Pass) -> Self {
        let mut stages: Vec<Stage> = Vec::with_capacity(model.stages());
        for index in 0..model.stages() {
            let input = stages.last().map_or_else(Border::new, |before| cut(&before.output));
            let mut ctx = Ctx::train(params, pass, index);
            let output = model.forward(index, &input, batch, &mut ctx);
            stages.push(Stage { input, output, ctx });
        }
        let losses = stages.last().map(|head| model.task.losses(&head.output[0], &batch.labels)).unwrap_or_default();
        Forward { stages, losses }
    }

    /// The sum of the examples' losses, f64 on the batch's device.
    pub fn loss_sum(&self) -> Tensor {
        self.losses.detach().sum(Kind::Double)
    }

    /// Accumulates the gradient of `scale` times the sum of losses; calls `ended` after each stage, last stage first.
    ///
    /// # Errors
    /// libtorch's, and those of `ended`.
    pub fn backward(mut self, scale: f64, mut ended: impl FnMut(usize) -> Result<()>) -> Result<()> {
        let mut roots: Border = vec![self.losses];
        let mut grads: Border = vec![roots[0].full_like(scale)];
        while let Some(mut stage) = self.stages.pop() {
            ffi::backward(&roots.iter().collect::<Vec<_>>(), &grads.iter().collect::<Vec<_>>())?;
            stage.ctx.scatter_rows()?;
            grads = stage.input.iter().map(Tensor::grad).collect();
            ended(self.stages.len())?;
            if let Some(before) = self.stages.last_mut() {
                roots = std::mem::take(&mut before.output);
            }
        }
        Ok(())
    }
}

/// The same values as leaves of a new graph.
fn cut(border: &Border) -> Border {
    border.iter().map(|t| t.detach().set_requires_grad(true)).collect()
}
