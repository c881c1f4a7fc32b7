//! Finds the largest micro-batch that fits on a GPU by dry runs before the first step.
//!
//! A dry run is a forward and backward pass over the largest micro-batch, with memory reserved for the optimizer state.
//! It does not communicate: gathered weights have only this rank's shard filled in, and are not used afterwards. The
//! random numbers of the first step do not change, and its gradients are allocated anew.

use crate::comm::Op;
use crate::data::batch::Batch;
use crate::data::{Extents, RandomKey, Sampler};
use crate::error::{Error, Kind, Result};
use crate::ffi::device::{attempt, empty_cache, synchronize};
use crate::ffi::memory::device_total;
use crate::ffi::{self, transfer};
use crate::nn::Pass;
use crate::parallel::{Gradients, Groups, Weights};
use crate::train::blockwise::{Blockwise, mean_factors};
use crate::train::memory_fit::{self, MIN_TOKENS};
use crate::train::session::Session;
use crate::train::teacher::Teacher;
use crate::train::{contrast, feed, settings};
use std::slice;
use std::sync::Arc;
use tch::{Kind as Type, Tensor};

/// Fraction of a GPU that a dry run leaves free, for the libraries' buffers and for micro-batches of another shape.
const SPARE_FRACTION: f64 = 0.05;

/// Returns the largest micro-batch that fits on every rank: the planned one, halved until it fits. All ranks call it.
///
/// # Errors
/// Exit 6 if not even the smallest one fits; errors of libtorch.
pub fn max_tokens(session: &Session) -> Result<usize> {
    let comm = session.comm.as_ref();
    let found =
        comm.agree(halved(session.micro_batch_tokens, |tokens| pass(session, tokens)), "dry run of a micro-batch")?;
    let mut least = [-(found as f64)];
    comm.all_reduce_f64(&mut least, Op::Max, "tokens of a micro-batch")?;
    Ok(-least[0] as usize)
}

/// Returns the first of `tokens`, `tokens / 2`, ... that does not run out of memory.
fn halved(mut tokens: usize, mut pass: impl FnMut(usize) -> Result<()>) -> Result<usize> {
    loop {
        match pass(tokens) {
            Ok(()) => return Ok(tokens),
            Err(e) if e.kind() == Kind::OutOfMemory && tokens / 2 >= MIN_TOKENS => tokens /= 2,
            Err(e) => return Err(e.context(format!("micro_batch_tokens = \"auto\": a pass of {tokens} tokens"))),
        }
    }
}

/// Checks whether a micro-batch of `tokens` tokens fits.
///
/// # Errors
/// Out of memory; other errors of libtorch.
pub fn pass(session: &Session, tokens: usize) -> Result<()> {
    let Session { comm, groups, loaded, .. } = session;
    let params = &loaded.params;
    let alone = groups.dry_run();
    let mut weights = loaded.weights.dry_run(Arc::clone(&alone.shard));
    let mut teacher =
        session.teacher.as_ref().map(|teacher| (teacher, teacher.weights.dry_run(Arc::clone(&alone.shard))));
    let result = attempt(|| run(session, &alone, &mut weights, teacher.as_mut(), tokens));
    // Clean up after a pass that failed halfway.
    weights.release_all(params)?;
    teacher.iter_mut().try_for_each(|(teacher, weights)| weights.release_all(&teacher.params))?;
    params.ids().try_for_each(|id| ffi::clear_grad(params.view(id)))?;
    empty_cache(comm.device())?;
    result
}

fn run(
    session: &Session,
    alone: &Groups,
    weights: &mut Weights,
    teacher: Option<&mut (&Teacher, Weights)>,
    tokens: usize,
) -> Result<()> {
    let (Session { config, loaded, data, .. }, solo) = (session, &alone.all);
    let (model, params, device) = (&loaded.model, &loaded.params, solo.device());
    let (world, dataset) = (solo.world(), &data.train.dataset);
    let mut config = memory_fit::with_tokens(config, data, tokens, true);
    config.parallel.recompute = session.recompute;
    let setup = memory_fit::setup(&config, (model, params.specs()), weights.zero(), false);
    let load = memory_fit::load(&config, (model, None), params.layout(), &setup, data, world)?;
    let batch = config.train.global_batch_size;
    let mut sampler = Sampler::new(config.seed, dataset, batch, world, tokens)?;
    let plan = sampler.plan(load.step);
    let is_heaviest = |micro: &&Vec<u32>| Extents::in_epoch(dataset, micro, plan.epoch) == load.busiest;
    let heaviest = plan.shards.iter().flatten().find(is_heaviest);
    let heaviest = heaviest.ok_or_else(|| Error::other("the plan's heaviest micro-batch is not in its step"))?;
    let draw = RandomKey { seed: config.seed, step: load.step + 1, epoch: plan.epoch };
    let mut rows = feed::rows_of(dataset, &plan, draw);
    transfer::upload(&mut [rows.tensor_mut()], device)?.wait()?;
    let mut batch = Batch::on(device, dataset, heaviest, draw)?;

    let owned = |unit| weights.owned(unit);
    let trained = params.layout().units().iter().filter(|unit| unit.is_trained());
    let bytes = setup.optimizer.element as i64;
    let moments: i64 = trained.map(owned).map(|owned| bytes * (owned.end - owned.start)).sum();
    let spare = device_total(device).map_or(0, |all| (all as f64 * SPARE_FRACTION) as i64);
    let moments = if weights.is_offloaded() { 0 } else { moments };
    let _reserved = Tensor::f_empty([moments + spare], (Type::Uint8, device))?;
    let reduce = settings::kind(config.parallel.reduce_dtype);
    let mut gradients = Gradients::new(params, alone.clone(), weights.zero(), reduce)?;
    gradients.begin(params, rows)?;
    let recompute = settings::recompute(&config);
    let pass = Pass { seed: config.seed, step: 0, micro_batch: 0, rank: solo.rank() as u64 };
    teacher.map_or(Ok(()), |(teacher, weights)| teacher.answer_with(weights, &mut batch))?;
    let blockwise = Blockwise { model, params, recompute, watch: None };
    let forward = match model.task.contrast() {
        Some(scale) => {
            contrast::prepare(blockwise, weights, solo.as_ref(), (slice::from_ref(&batch), 1), |_| pass, scale)?
        }
        None => blockwise.forward(weights, Some(&batch), pass)?,
    };
    let terms: Vec<f64> = batch.weights.iter().copied().chain(batch.taught.iter().map(|_| 1.0)).collect();
    let scales = mean_factors(&terms);
    forward.backward(weights, &mut gradients, &scales, true)?;
    gradients.finish(params)?;
    drop(gradients.squares(params)?);
    synchronize(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_halved_until_they_fit() {
        let fits = |most: usize| {
            move |tokens: usize| if tokens <= most { Ok(()) } else { Err(Error::new(Kind::OutOfMemory, "out")) }
        };
        assert_eq!(halved(1 << 16, fits(1 << 20)).unwrap(), 1 << 16);
        assert_eq!(halved(1 << 16, fits(5000)).unwrap(), 4096);
        let e = halved(1 << 16, fits(100)).unwrap_err();
        assert!(e.kind() == Kind::OutOfMemory && e.to_string().contains("a pass of 512 tokens: out"), "{e}");
        let mut tries = 0;
        let e = halved(1 << 16, |_| {
            tries += 1;
            Err(Error::other("a bug"))
        });
        assert!(e.unwrap_err().kind() == Kind::Other && tries == 1, "only out of memory is retried");
    }
}
