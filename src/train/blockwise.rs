//! Forward and backward pass, block by block: forward detaches the graph at every block boundary, backward runs the
//! blocks in reverse.
//!
//! Between two blocks, sharded weights are gathered and freed, checkpointed activations are freed and recomputed, and
//! the reduction of gradients starts: they are complete as soon as a block's backward has ended. The gradients are
//! bit-equal to those of a single backward pass.
//!
//! Every pass runs the same collectives on every rank. A rank without samples runs it without a batch.

use crate::data::batch::Batch;
use crate::error::Result;
use crate::ffi::{self, profiler, without_graph};
use crate::models::Boundary;
use crate::nn::{Ctx, Params, Pass};
use crate::ops::cross_entropy::Losses;
use crate::parallel::{Gradients, Weights};
use crate::tasks::Model;
use crate::train::watch::Watch;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Activation checkpointing: which blocks keep their activations from forward to backward. The others keep their input
/// and run forward again (arXiv 1604.06174).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompute {
    /// Every block keeps its activations.
    #[default]
    None,
    /// Every block is checkpointed, except the last.
    All,
    /// Every N-th block keeps its activations, starting with the first.
    Every(usize),
    /// The first N blocks are checkpointed: when they run again, the activations of the others are freed already.
    First(usize),
}

impl Recompute {
    /// Whether block `block` keeps its activations. The last of `blocks` always does: its backward follows at once.
    pub fn keeps(self, block: usize, blocks: usize) -> bool {
        let chosen = match self {
            Recompute::None => true,
            Recompute::All => false,
            Recompute::Every(n) => block.is_multiple_of(n),
            Recompute::First(n) => block >= n,
        };
        chosen || block + 1 == blocks
    }
}

/// A model, its parameters, and the settings of a pass.
#[derive(Clone, Copy)]
pub struct Blockwise<'a> {
    pub model: &'a Model,
    pub params: &'a Params,
    pub recompute: Recompute,
    /// Checks every tensor for NaN and Inf, if set.
    pub watch: Option<&'a Watch>,
}

/// Result of a forward pass, from which backward starts.
pub struct Forward<'a> {
    blockwise: Blockwise<'a>,
    pass: Pass,
    /// None on a rank without samples.
    run: Option<Run<'a>>,
}

struct Run<'a> {
    batch: &'a Batch,
    /// The blocks from the first trained one on.
    blocks: Vec<Block<'a>>,
    /// Until the losses are computed, if that is not a part of the pass.
    logits: Boundary,
    losses: Vec<Losses>,
}

/// The graph of one block.
struct Block<'a> {
    /// The boundary activations that it gets: leaves of the graph if the blocks before it are trained too.
    input: Boundary,
    /// `None` if the block is checkpointed.
    kept: Option<Kept<'a>>,
}

struct Kept<'a> {
    output: Boundary,
    ctx: Ctx<'a>,
}

impl<'a> Blockwise<'a> {
    /// Runs every block on `batch` with gradients and dropout.
    ///
    /// # Errors
    /// A dead or late rank, where weights are gathered.
    pub fn forward(self, weights: &mut Weights, batch: Option<&'a Batch>, pass: Pass) -> Result<Forward<'a>> {
        let forward = self.forward_with(weights, batch, pass, |input, batch| self.losses(input, batch, pass))?;
        if let (Some(watch), Some(run)) = (self.watch, &forward.run) {
            run.losses.iter().for_each(|losses| watch.after_loss(&losses.values, run.batch));
        }
        Ok(forward)
    }

    /// As [`Blockwise::forward`], but without the losses: [`Forward::compute_losses`] follows, when the batch has what
    /// they depend on.
    ///
    /// # Errors
    /// As [`Blockwise::forward`].
    pub fn forward_to_logits(self, weights: &mut Weights, batch: Option<&'a Batch>, pass: Pass) -> Result<Forward<'a>> {
        let head = self.model.blocks() - 1;
        self.forward_with(weights, batch, pass, |input, batch| (self.run(head, input, batch, pass), Vec::new()))
    }

    /// Runs all blocks but the last, and `last` on their result, which returns its graph and its losses.
    fn forward_with(
        self,
        weights: &mut Weights,
        batch: Option<&'a Batch>,
        pass: Pass,
        last: impl Fn(&Boundary, &'a Batch) -> (Kept<'a>, Vec<Losses>),
    ) -> Result<Forward<'a>> {
        let Blockwise { model, params, recompute, .. } = self;
        let (count, first) = (model.blocks(), params.first_trained_block());
        let mut blocks: Vec<Block> = Vec::with_capacity(count);
        let mut boundary = Boundary::new();
        let mut losses = Vec::new();
        self.visit(weights, |index| {
            let Some(batch) = batch else { return };
            let keeps = index >= first && recompute.keeps(index, count);
            let input = detach(&boundary, keeps && index > first);
            let mut run = || {
                if index + 1 < count {
                    return self.run(index, &input, batch, pass);
                }
                let (kept, found) = last(&input, batch);
                losses = found;
                kept
            };
            let kept = if keeps { run() } else { without_graph(run) };
            boundary = kept.output.iter().map(Tensor::shallow_clone).collect();
            if index >= first {
                blocks.push(Block { input, kept: keeps.then_some(kept) });
            }
        })?;
        let run = batch.map(|batch| Run { batch, blocks, logits: boundary, losses });
        Ok(Forward { blockwise: self, pass, run })
    }

    /// Returns the logits of `batch` in fp32, without dropout and without gradients.
    ///
    /// # Errors
    /// A dead or late rank, where weights are gathered.
    pub fn infer(self, weights: &mut Weights, batch: Option<&Batch>) -> Result<Option<Boundary>> {
        let head = self.model.blocks() - 1;
        self.without_gradients(weights, batch, None, |input, batch, ctx| self.model.forward(head, input, batch, ctx))
    }

    /// Returns the logits of `batch` as [`Blockwise::forward`] computes them in this pass, without gradients.
    ///
    /// # Errors
    /// As [`Blockwise::infer`].
    pub fn answers(self, weights: &mut Weights, batch: Option<&Batch>, pass: Pass) -> Result<Option<Boundary>> {
        let head = self.model.blocks() - 1;
        let forward = |input: &Boundary, batch: &Batch, ctx: &mut Ctx| self.model.forward(head, input, batch, ctx);
        self.without_gradients(weights, batch, Some(pass), forward)
    }

    /// Returns the task's answers for `batch` and, if it has labels, the losses of each term, without dropout and without
    /// gradients.
    ///
    /// # Errors
    /// As [`Blockwise::infer`].
    pub fn evaluate(self, weights: &mut Weights, batch: Option<&Batch>) -> Result<Option<(Tensor, Vec<Tensor>)>> {
        self.without_gradients(weights, batch, None, |input, batch, ctx| self.model.evaluate(input, batch, ctx))
    }

    /// Runs all blocks but the last, and `head` on their result; with dropout in a `pass` of training.
    fn without_gradients<T>(
        self,
        weights: &mut Weights,
        batch: Option<&Batch>,
        pass: Option<Pass>,
        head: impl Fn(&Boundary, &Batch, &mut Ctx) -> T,
    ) -> Result<Option<T>> {
        let _guard = tch::no_grad_guard();
        let (mut boundary, mut found) = (Boundary::new(), None);
        self.visit(weights, |index| {
            let Some(batch) = batch else { return };
            let mut ctx = pass.map_or_else(|| Ctx::eval(self.params), |pass| Ctx::train(self.params, pass, index));
            match index + 1 < self.model.blocks() {
                true => boundary = self.model.forward(index, &boundary, batch, &mut ctx),
                false => found = Some(head(&boundary, batch, &mut ctx)),
            }
        })?;
        weights.release(self.params, self.model.blocks() - 1)?;
        Ok(found)
    }

    fn visit(self, weights: &mut Weights, run: impl FnMut(usize)) -> Result<()> {
        visit(self.params, weights, 0..self.model.blocks(), run)
    }

    /// Runs the last block and returns its losses, and those against the teacher's answers if the batch has some. A
    /// `watch` needs the logits; otherwise they are not kept, and for a vocabulary not even computed at once.
    fn losses(self, input: &Boundary, batch: &Batch, pass: Pass) -> (Kept<'a>, Vec<Losses>) {
        let Model { backbone, task } = self.model;
        let head = self.model.blocks() - 1;
        let fused = || {
            let _range = profiler::range(|| "forward loss".to_owned());
            let mut ctx = Ctx::train(self.params, pass, head);
            let losses = task.fused_losses(backbone.as_ref(), input, batch, &mut ctx)?;
            Some((Kept { output: Boundary::new(), ctx }, losses))
        };
        let found = if self.watch.is_none() && batch.taught.is_none() { fused() } else { None };
        found.unwrap_or_else(|| {
            let mut kept = self.run(head, input, batch, pass);
            let _range = profiler::range(|| "forward loss".to_owned());
            let logits = std::mem::take(&mut kept.output);
            let taught = batch.taught.as_ref().map(|taught| task.taught_losses(&logits, taught, batch));
            let losses = task.losses(&logits, batch).into_iter().chain(taught);
            (kept, losses.map(Losses::from).collect())
        })
    }

    fn run(self, index: usize, input: &Boundary, batch: &Batch, pass: Pass) -> Kept<'a> {
        let _range = profiler::range(|| format!("forward {}", self.model.block_name(index)));
        let mut ctx = Ctx::train(self.params, pass, index);
        let output = self.model.forward(index, input, batch, &mut ctx);
        if let Some(watch) = self.watch {
            watch.after_forward(self.model, self.params, index, &output, batch);
        }
        Kept { output, ctx }
    }
}

/// Returns the factors that turn each term's sum of losses into a mean, given the weights of the terms' targets. A term
/// without targets, such as MLM in a batch without masked tokens, counts as zero.
pub fn mean_factors(weights: &[f64]) -> Vec<f64> {
    weights.iter().map(|&weight| if weight > 0.0 { 1.0 / weight } else { 0.0 }).collect()
}

/// Calls `run` for these blocks in order. The weights of the next block are gathered meanwhile; the last block's stay.
///
/// # Errors
/// A dead or late rank, where weights are gathered.
pub fn visit(params: &Params, weights: &mut Weights, blocks: Range<usize>, mut run: impl FnMut(usize)) -> Result<()> {
    weights.fetch(params, blocks.start, true)?;
    for index in blocks.clone() {
        weights.ready(params, index)?;
        if index + 1 < blocks.end {
            weights.fetch(params, index + 1, true)?;
        }
        run(index);
        if index + 1 < blocks.end {
            weights.release(params, index)?;
        }
    }
    Ok(())
}

impl Forward<'_> {
    /// The logits of [`Blockwise::forward_to_logits`], without their graph; none on a rank without samples.
    pub fn logits(&self) -> Boundary {
        self.run.as_ref().map(|run| detach(&run.logits, false)).unwrap_or_default()
    }

    /// Computes the losses from the logits of [`Blockwise::forward_to_logits`].
    pub fn compute_losses(&mut self) {
        let task = &self.blockwise.model.task;
        if let Some(run) = &mut self.run {
            let _range = profiler::range(|| "forward loss".to_owned());
            let logits = std::mem::take(&mut run.logits);
            run.losses = task.losses(&logits, run.batch).into_iter().map(Losses::from).collect();
        }
    }

    /// The sum of each term's losses, f64 `[terms]` on the batch's device; none on a rank without samples.
    pub fn loss_sums(&self) -> Option<Tensor> {
        let sum = |losses: &Losses| losses.values.detach().sum(Kind::Double);
        self.run.as_ref().map(|run| Tensor::stack(&run.losses.iter().map(sum).collect::<Vec<_>>(), 0))
    }

    /// Accumulates the gradient of the terms' summed losses, each multiplied by its scale, and starts the reductions
    /// that are due: all of them after the `last` micro-batch of a step.
    pub fn backward(self, weights: &mut Weights, gradients: &mut Gradients, scales: &[f64], last: bool) -> Result<()> {
        let Forward { blockwise, pass, mut run } = self;
        let Blockwise { model, params, recompute, watch } = blockwise;
        let (count, first) = (model.blocks(), params.first_trained_block());
        let losses = run.as_mut().map(|run| std::mem::take(&mut run.losses)).unwrap_or_default();
        let mut roots: Boundary = losses.into_iter().map(|losses| losses.root).collect();
        let mut grads: Boundary = roots.iter().zip(scales).map(|(root, &scale)| root.full_like(scale)).collect();
        for index in (first..count).rev() {
            if index > first {
                weights.fetch(params, index - 1, !recompute.keeps(index - 1, count))?;
            }
            {
                let _range = profiler::range(|| format!("gradients of {}", model.block_name(index)));
                gradients.before(params, index)?;
            }
            if let Some(Run { batch, blocks, .. }) = &mut run
                && let Some(Block { mut input, kept }) = blocks.pop()
            {
                let mut kept = kept.unwrap_or_else(|| {
                    input = detach(&input, index > first);
                    blockwise.run(index, &input, batch, pass)
                });
                if index + 1 < count {
                    roots = std::mem::take(&mut kept.output);
                }
                let _range = profiler::range(|| format!("backward {}", model.block_name(index)));
                backward(&roots, &grads)?;
                roots.clear();
                for found in kept.ctx.row_gradients() {
                    if let Some(watch) = watch {
                        watch.after_lookup(model, params, &found, batch);
                    }
                    gradients.add_rows(params, &found)?;
                }
                grads = input.iter().map(Tensor::grad).collect();
                if let Some(watch) = watch {
                    watch.after_backward(model, params, index, &grads, batch);
                }
            }
            {
                let _range = profiler::range(|| format!("start reduction of {}", model.block_name(index)));
                gradients.after(params, index, &model.block_name(index), last)?;
            }
            weights.release(params, index)?;
            if index > first {
                weights.ready(params, index - 1)?;
            }
        }
        // If nothing is trained, the last block's weights are still gathered.
        weights.release(params, count - 1)
    }
}

/// Runs backward through one block, from the outputs that have a gradient.
fn backward(outputs: &Boundary, grads: &Boundary) -> Result<()> {
    let pairs = outputs.iter().zip(grads).filter(|(output, grad)| output.requires_grad() && grad.defined());
    let (outputs, grads): (Vec<&Tensor>, Vec<&Tensor>) = pairs.unzip();
    if outputs.is_empty() { Ok(()) } else { ffi::backward(&outputs, &grads) }
}

/// Returns detached copies that start a new graph; with `learns`, they collect a gradient.
fn detach(boundary: &Boundary, learns: bool) -> Boundary {
    boundary.iter().map(|t| t.detach().set_requires_grad(learns && t.is_floating_point())).collect()
}
