//! Which tensor went bad first, on which rank, over which samples: the step is run again, looking at everything.
//!
//! Nothing was updated and chance is a pure function, so the second run meets the same numbers.

use crate::comm::Collective;
use crate::data::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::ffi::transfer;
use crate::nn::{Params, Pass};
use crate::parallel::{Gradients, Rows, Weights};
use crate::tasks::Model;
use crate::train::settings::StepConfig;
use crate::train::staged::Staged;
use crate::train::watch::Watch;

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

/// What the step is run again with.
pub struct Rerun<'a> {
    pub model: &'a Model,
    pub params: &'a Params,
    pub weights: &'a mut Weights,
    pub gradients: &'a mut Gradients,
    pub comm: &'a dyn Collective,
    pub config: StepConfig,
}

/// The error that ends a run, with its cause. All ranks call it.
///
/// # Errors
/// A dead or late rank; libtorch's.
pub fn diagnose(rerun: Rerun, fault: &Fault) -> Result<Error> {
    let comm = rerun.comm;
    let found = look(rerun, fault)?;
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
fn look(rerun: Rerun, fault: &Fault) -> Result<Option<String>> {
    let Rerun { model, params, weights, gradients, comm, config } = rerun;
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
