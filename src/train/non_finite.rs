//! Which tensor went bad first, on which rank, over which samples: the step is run again, looking at everything.
//!
//! Nothing was updated and chance is a pure function, so the second run meets the same numbers.

use crate::data::batch::Batch;
use crate::data::ragged::Sequences;
use crate::error::{Error, Kind, Result};
use crate::ffi::transfer;
use crate::models::Border;
use crate::nn::{ParamId, Params, Pass, RowGradient};
use crate::parallel::Rows;
use crate::tasks::Model;
use crate::train::staged::Staged;
use crate::train::step::Stepper;
use std::cell::RefCell;
use tch::Tensor;

/// How many samples a message names.
const NAMED: usize = 8;

/// A step whose loss or gradient norm is not finite.
#[derive(Debug)]
pub struct Fault<'a> {
    pub step: u64,
    pub loss: f64,
    pub grad_norm: f64,
    pub batches: &'a [Batch],
    pub micro_batches: usize,
    /// What backward starts from, of each term of the loss.
    pub scales: &'a [f64],
}

/// Looks at the tensors of a pass and remembers the first that is not finite.
#[derive(Default)]
pub struct Watch {
    found: RefCell<Option<String>>,
}

impl Watch {
    fn note(&self, what: impl FnOnce() -> String) {
        let mut found = self.found.borrow_mut();
        if found.is_none() {
            *found = Some(what());
        }
    }

    /// A stage has run forward.
    pub fn ran(&self, model: &Model, params: &Params, stage: usize, output: &Border, batch: &Batch) {
        let Some(bad) = output.iter().find(|tensor| is_bad(tensor)) else { return };
        // A weight that no sample has used is not the cause: a row of a table.
        let weight = members(params, stage).find(|id| is_bad(params.view(*id)));
        let what = match weight {
            Some(id) => format!("the weight {}", name_of(model, params, id)),
            None => format!("the output of the {}", model.stage_name(stage)),
        };
        self.note(|| format!("{what}{}", samples(bad, batch)));
    }

    /// The losses `[B]` are known.
    pub fn lost(&self, losses: &Tensor, batch: &Batch) {
        if is_bad(losses) {
            self.note(|| format!("the loss{}", samples(losses, batch)));
        }
    }

    /// A stage has run backward; `border` is the gradient that it hands to the stage before.
    pub fn returned(&self, model: &Model, params: &Params, stage: usize, border: &Border, batch: &Batch) {
        for id in members(params, stage).filter(|id| is_bad(&params.view(*id).grad())) {
            self.note(|| format!("the gradient of {}{}", name_of(model, params, id), named(&batch.samples)));
        }
        for tensor in border.iter().filter(|tensor| is_bad(tensor)) {
            let name = model.stage_name(stage);
            self.note(|| format!("the gradient of the input of the {name}{}", samples(tensor, batch)));
        }
    }

    /// Backward has found the gradient of looked-up rows.
    pub fn looked_up(&self, model: &Model, params: &Params, found: &RowGradient, batch: &Batch) {
        if is_bad(&found.grad) {
            let name = name_of(model, params, found.table);
            self.note(|| format!("the gradient of {name}{}", samples(&found.grad, batch)));
        }
    }
}

/// What a stage computes with.
fn members(params: &Params, stage: usize) -> impl Iterator<Item = ParamId> {
    params.layout().of_stage(stage).flat_map(|unit| params.layout().units()[unit].members.iter().copied())
}

/// As Hugging Face calls it.
fn name_of(model: &Model, params: &Params, id: ParamId) -> String {
    let names = model.backbone.hf_names();
    names.exported(names.of(&params.spec(id).name)).join(" + ")
}

fn is_bad(tensor: &Tensor) -> bool {
    tensor.defined()
        && tensor.is_floating_point()
        && transfer::values::<bool>(&tensor.isfinite().all()).is_ok_and(|finite| finite != [true])
}

/// The samples behind the bad rows of `[T, ..]`, a decoder's `[D, ..]` or `[B, ..]`; all where it may be two of these.
fn samples(tensor: &Tensor, batch: &Batch) -> String {
    let rows = tensor.size().first().copied().unwrap_or_default();
    let bad = tensor.isfinite().logical_not().reshape([rows, -1]).any_dim(1, false).nonzero().view(-1);
    let bad: Vec<i64> = transfer::values(&bad).unwrap_or_default();
    let sides = [Some(&batch.sequences), batch.decoder.as_ref().map(|decoder| &decoder.sequences)];
    let mut sides = sides.into_iter().flatten().map(Sequences::lengths).filter(|side| rows == side.iter().sum::<i64>());
    let ids = if rows as usize == batch.len() {
        bad.iter().map(|&row| batch.samples[row as usize]).collect()
    } else if let (Some(lengths), None) = (sides.next(), sides.next()) {
        let owners: Vec<u32> =
            batch.samples.iter().zip(&batch.widths).flat_map(|(&id, &n)| std::iter::repeat_n(id, n)).collect();
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        let ends: Vec<i64> = ends.collect();
        let mut ids: Vec<u32> = bad.iter().map(|&row| owners[ends.partition_point(|&end| end <= row)]).collect();
        ids.dedup();
        ids
    } else {
        batch.samples.clone()
    };
    named(&ids)
}

fn named(ids: &[u32]) -> String {
    let list: Vec<String> = ids.iter().take(NAMED).map(u32::to_string).collect();
    let more = if ids.len() > NAMED { format!(" and {} more", ids.len() - NAMED) } else { String::new() };
    format!(
        ", over sample{} {}{more} of data.train (counted from 0)",
        if ids.len() == 1 { "" } else { "s" },
        list.join(", ")
    )
}

/// The error that ends a run, with its cause. All ranks call it.
///
/// # Errors
/// A dead or late rank; libtorch's.
pub fn diagnose(stepper: &mut Stepper, fault: &Fault) -> Result<Error> {
    let found = look(stepper, fault)?;
    let comm = stepper.comm.as_ref();
    let here = |what: String| {
        let rank = comm.rank();
        Error::new(Kind::NonFinite, format!("the first tensor that is not finite, on rank {rank}: {what}"))
    };
    let cause = match comm.agree(found.map_or(Ok(()), |what| Err(here(what))), "what went bad") {
        Ok(()) => "the tensors of each micro-batch are finite: what overflows is their sum, or the squares in the norm"
            .to_owned(),
        Err(e) if e.kind() == Kind::NonFinite => e.to_string(),
        Err(e) => return Err(e),
    };
    let Fault { step, loss, grad_norm, .. } = fault;
    Ok(Error::new(
        Kind::NonFinite,
        format!(
            "step {step}: the loss is {loss} and the gradient norm {grad_norm}; {cause}. No weight was changed by this \
             step. A lower learning_rate or a longer warm-up is the usual remedy; train.on_non_finite = \"skip\" \
             leaves such steps out"
        ),
    )
    .shared())
}

/// Runs the step's micro-batches again on this rank.
fn look(stepper: &mut Stepper, fault: &Fault) -> Result<Option<String>> {
    let Stepper { model, params, weights, gradients, comm, config, .. } = stepper;
    let watch = Watch::default();
    let staged = Staged { model, params, recompute: config.recompute, watch: Some(&watch) };
    let decoders = fault.batches.iter().filter_map(|batch| batch.decoder.as_ref()).map(|decoder| &decoder.tokens);
    let tokens = fault.batches.iter().map(|batch| &batch.tokens).chain(decoders);
    let tokens: Vec<Vec<i64>> = tokens.map(transfer::values).collect::<Result<_>>()?;
    let mut rows = Rows::new(tokens.concat());
    transfer::upload(&mut [rows.tensor_mut()], comm.device())?.wait()?;
    gradients.begin(params, rows)?;
    for index in 0..fault.micro_batches {
        let pass = Pass { seed: config.seed, step: fault.step, micro_batch: index as u64, rank: comm.rank() as u64 };
        let batch = fault.batches.get(index);
        let forward = staged.forward(weights, batch, pass)?;
        forward.backward(weights, gradients, fault.scales, false)?;
    }
    gradients.finish(params)?;
    Ok(watch.found.into_inner())
}
