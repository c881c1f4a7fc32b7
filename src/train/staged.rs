//! The staged pass: forward cuts the graph at every stage's border, backward runs the stages in reverse.
//!
//! At the seam between two stages a sharded stage's weights are fetched and freed, activations are dropped and made
//! again, and gradients go on their way: as soon as a stage's backward has ended they are complete. The gradients are
//! those of one whole backward, bit for bit.
//!
//! Every pass makes the same collectives on every rank. A rank without samples runs it with no batch.

use crate::data::batch::Batch;
use crate::error::Result;
use crate::ffi::{self, profiler, without_graph};
use crate::models::Boundary;
use crate::nn::{Ctx, Params, Pass};
use crate::parallel::{Gradients, Weights};
use crate::tasks::Model;
use crate::train::watch::Watch;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Which stages keep their activations from forward to backward; the others keep their input and run again
/// (arXiv 1604.06174).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompute {
    /// Every stage keeps them.
    #[default]
    None,
    /// No stage does.
    All,
    /// Every N-th stage does, the first among them.
    Every(usize),
}

impl Recompute {
    /// Whether `stage` keeps its activations. The last of `stages` always does: its backward follows at once.
    pub fn keeps(self, stage: usize, stages: usize) -> bool {
        let chosen = match self {
            Recompute::None => true,
            Recompute::All => false,
            Recompute::Every(n) => stage.is_multiple_of(n),
        };
        chosen || stage + 1 == stages
    }
}

/// What a pass runs: a model, its parameters, and how it uses memory.
#[derive(Clone, Copy)]
pub struct Staged<'a> {
    pub model: &'a Model,
    pub params: &'a Params,
    pub recompute: Recompute,
    /// Who looks at every tensor, if somebody does.
    pub watch: Option<&'a Watch>,
}

/// A forward pass that waits for its backward.
pub struct Forward<'a> {
    staged: Staged<'a>,
    pass: Pass,
    /// None on a rank without samples.
    run: Option<Run<'a>>,
}

struct Run<'a> {
    batch: &'a Batch,
    /// From the first trained stage on.
    stages: Vec<Stage<'a>>,
    /// Of each term of the loss.
    losses: Vec<Tensor>,
}

/// One stage's piece of the graph.
struct Stage<'a> {
    /// The border it got: leaves where the stages before are trained too.
    input: Boundary,
    /// None where it is to be made again.
    kept: Option<Kept<'a>>,
}

struct Kept<'a> {
    output: Boundary,
    ctx: Ctx<'a>,
}

impl<'a> Staged<'a> {
    /// Runs every stage on `batch` with gradients and dropout.
    ///
    /// # Errors
    /// A dead or late rank, where weights are gathered.
    pub fn forward(self, weights: &mut Weights, batch: Option<&'a Batch>, pass: Pass) -> Result<Forward<'a>> {
        let Staged { model, params, recompute, watch } = self;
        let (count, first) = (model.stages(), params.layout().first_trained_stage());
        let mut stages: Vec<Stage> = Vec::with_capacity(count);
        let mut border = Boundary::new();
        self.visit(weights, |index| {
            let Some(batch) = batch else { return };
            let keeps = index >= first && recompute.keeps(index, count);
            let input = cut(&border, keeps && index > first);
            let run = || self.run(index, &input, batch, pass);
            let kept = if keeps { run() } else { without_graph(run) };
            border = kept.output.iter().map(Tensor::shallow_clone).collect();
            if index >= first {
                stages.push(Stage { input, kept: keeps.then_some(kept) });
            }
        })?;
        let range = profiler::range(|| "forward loss".to_owned());
        let losses = batch.map(|batch| model.task.losses(&border, batch));
        drop(range);
        // Of the logits the graph keeps what backward needs; the losses are its roots.
        if let Some(Stage { kept: Some(last), .. }) = stages.last_mut() {
            last.output.clear();
        }
        let run = batch.zip(losses).map(|(batch, losses)| Run { batch, stages, losses });
        if let (Some(watch), Some(run)) = (watch, &run) {
            run.losses.iter().for_each(|losses| watch.lost(losses, run.batch));
        }
        Ok(Forward { staged: self, pass, run })
    }

    /// The logits of `batch`, f32, without dropout and without gradients.
    ///
    /// # Errors
    /// A dead or late rank, where weights are gathered.
    pub fn infer(self, weights: &mut Weights, batch: Option<&Batch>) -> Result<Option<Boundary>> {
        let _guard = tch::no_grad_guard();
        let mut border = Boundary::new();
        self.visit(weights, |index| {
            if let Some(batch) = batch {
                border = self.model.forward(index, &border, batch, &mut Ctx::eval(self.params));
            }
        })?;
        weights.release(self.params, self.model.stages() - 1)?;
        Ok(batch.map(|_| border))
    }

    fn visit(self, weights: &mut Weights, run: impl FnMut(usize)) -> Result<()> {
        visit(self.params, weights, 0..self.model.stages(), run)
    }

    fn run(self, index: usize, input: &Boundary, batch: &Batch, pass: Pass) -> Kept<'a> {
        let _range = profiler::range(|| format!("forward {}", self.model.stage_name(index)));
        let mut ctx = Ctx::train(self.params, pass, index);
        let output = self.model.forward(index, input, batch, &mut ctx);
        if let Some(watch) = self.watch {
            watch.ran(self.model, self.params, index, &output, batch);
        }
        Kept { output, ctx }
    }
}

/// Calls `run` for these stages in order, its weights there and the next stage's on their way; the last stage's stay.
///
/// # Errors
/// A dead or late rank, where weights are gathered.
pub fn visit(params: &Params, weights: &mut Weights, stages: Range<usize>, mut run: impl FnMut(usize)) -> Result<()> {
    weights.fetch(params, stages.start, true)?;
    for index in stages.clone() {
        weights.ready(params, index)?;
        if index + 1 < stages.end {
            weights.fetch(params, index + 1, true)?;
        }
        run(index);
        if index + 1 < stages.end {
            weights.release(params, index)?;
        }
    }
    Ok(())
}

impl Forward<'_> {
    /// The sum of each term's losses, f64 `[terms]` on the batch's device; none on a rank without samples.
    pub fn loss_sums(&self) -> Option<Tensor> {
        let sum = |losses: &Tensor| losses.detach().sum(Kind::Double);
        self.run.as_ref().map(|run| Tensor::stack(&run.losses.iter().map(sum).collect::<Vec<_>>(), 0))
    }

    /// Accumulates the gradient of the terms' sums of losses, each times its scale, and starts what reductions are due: all of them
    /// after the `last` micro-batch of a step.
    ///
    /// # Errors
    /// libtorch's, and those of the collectives.
    pub fn backward(self, weights: &mut Weights, gradients: &mut Gradients, scales: &[f64], last: bool) -> Result<()> {
        let Forward { staged, pass, mut run } = self;
        let Staged { model, params, recompute, watch } = staged;
        let (count, first) = (model.stages(), params.layout().first_trained_stage());
        let mut roots: Boundary = run.as_mut().map(|run| std::mem::take(&mut run.losses)).unwrap_or_default();
        let mut grads: Boundary = roots.iter().zip(scales).map(|(losses, &scale)| losses.full_like(scale)).collect();
        for index in (first..count).rev() {
            if index > first {
                weights.fetch(params, index - 1, !recompute.keeps(index - 1, count))?;
            }
            gradients.before(params, index)?;
            if let Some(Run { batch, stages, .. }) = &mut run
                && let Some(Stage { mut input, kept }) = stages.pop()
            {
                let mut kept = kept.unwrap_or_else(|| {
                    input = cut(&input, index > first);
                    staged.run(index, &input, batch, pass)
                });
                if index + 1 < count {
                    roots = std::mem::take(&mut kept.output);
                }
                let _range = profiler::range(|| format!("backward {}", model.stage_name(index)));
                backward(&roots, &grads)?;
                roots.clear();
                for found in kept.ctx.row_gradients() {
                    if let Some(watch) = watch {
                        watch.looked_up(model, params, &found, batch);
                    }
                    gradients.add_rows(params, &found)?;
                }
                grads = input.iter().map(Tensor::grad).collect();
                if let Some(watch) = watch {
                    watch.returned(model, params, index, &grads, batch);
                }
            }
            gradients.after(params, index, &model.stage_name(index), last)?;
            weights.release(params, index)?;
            if index > first {
                weights.ready(params, index - 1)?;
            }
        }
        // Nothing is trained: the last stage's weights are still held.
        weights.release(params, count - 1)
    }
}

/// Backward through one stage, from the outputs that something came back for.
fn backward(outputs: &Boundary, grads: &Boundary) -> Result<()> {
    let pairs = outputs.iter().zip(grads).filter(|(output, grad)| output.requires_grad() && grad.defined());
    let (outputs, grads): (Vec<&Tensor>, Vec<&Tensor>) = pairs.unzip();
    if outputs.is_empty() { Ok(()) } else { ffi::backward(&outputs, &grads) }
}

/// The same values as the beginning of a new graph, which goes back to them if it `learns`.
fn cut(border: &Boundary, learns: bool) -> Boundary {
    border.iter().map(|t| t.detach().set_requires_grad(learns && t.is_floating_point())).collect()
}
