//! Finds the first tensor with NaN or Inf, its rank and its samples, by running the step again with checks.
//!
//! No weight was updated and all randomness is keyed, so the second run computes the same values.

use crate::comm::Collective;
use crate::data::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::ffi::transfer;
use crate::nn::{Params, Pass};
use crate::parallel::{Gradients, Rows, Weights};
use crate::tasks::Model;
use crate::train::blockwise::Blockwise;
use crate::train::settings::StepConfig;
use crate::train::watch::Watch;

/// A step with a NaN or Inf loss or gradient norm.
#[derive(Debug)]
pub struct Fault<'a> {
    pub step: u64,
    pub loss: f64,
    pub grad_norm: f64,
    pub batches: &'a [Batch],
    pub micro_batches: usize,
    /// Initial gradient of each term of the loss.
    pub scales: &'a [f64],
}

/// The state that the step runs again with.
pub struct Rerun<'a> {
    pub model: &'a Model,
    pub params: &'a Params,
    pub weights: &'a mut Weights,
    pub gradients: &'a mut Gradients,
    pub comm: &'a dyn Collective,
    pub config: StepConfig,
}

/// Returns the error that ends a run, with its cause. All ranks call it.
///
/// # Errors
/// A dead or late rank; libtorch's.
pub fn diagnose(state: Rerun, fault: &Fault) -> Result<Error> {
    let comm = state.comm;
    let found = rerun(state, fault)?;
    let here = |what: String| {
        let rank = comm.rank();
        Error::new(Kind::NonFinite, format!("the first tensor with NaN or Inf, on rank {rank}: {what}"))
    };
    let cause = match comm.agree(found.map_or(Ok(()), |what| Err(here(what))), "the first NaN or Inf") {
        Ok(()) => {
            "the tensors of each micro-batch are finite: their sum overflows, or the squares in the norm".to_owned()
        }
        Err(e) if e.kind() == Kind::NonFinite => e.to_string(),
        Err(e) => return Err(e),
    };
    let Fault { step, loss, grad_norm, .. } = fault;
    Ok(Error::new(
        Kind::NonFinite,
        format!(
            "step {step}: the loss is {loss} and the gradient norm {grad_norm}; {cause}. This step changed no \
             weight. Lower learning_rate or raise warmup_steps; train.on_non_finite = \"skip\" skips such \
             steps"
        ),
    )
    .shared())
}

/// Runs the step's micro-batches again on this rank, with checks.
fn rerun(state: Rerun, fault: &Fault) -> Result<Option<String>> {
    let Rerun { model, params, weights, gradients, comm, config } = state;
    let watch = Watch::default();
    let blockwise = Blockwise { model, params, recompute: config.recompute, watch: Some(&watch) };
    let decoders = fault.batches.iter().filter_map(|batch| batch.decoder.as_ref()).map(|decoder| &decoder.tokens);
    let tokens = fault.batches.iter().map(|batch| &batch.tokens).chain(decoders);
    let tokens: Vec<Vec<i64>> = tokens.map(transfer::values).collect::<Result<_>>()?;
    let mut rows = Rows::new(tokens.concat());
    transfer::upload(&mut [rows.tensor_mut()], comm.device())?.wait()?;
    gradients.begin(params, rows)?;
    for index in 0..fault.micro_batches {
        let pass = Pass { seed: config.seed, step: fault.step, micro_batch: index as u64, rank: comm.rank() as u64 };
        let batch = fault.batches.get(index);
        let forward = blockwise.forward(weights, batch, pass)?;
        forward.backward(weights, gradients, fault.scales, false)?;
    }
    gradients.finish(params)?;
    Ok(watch.found.into_inner())
}
