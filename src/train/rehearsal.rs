//! How many tokens at a time a GPU has room for: tried before the first step, by passes that change nothing.
//!
//! A pass forward and backward over the heaviest micro-batch, with room set aside for the optimizer's state. No rank tells
//! another anything: sharded weights are gathered from nobody, and what they hold then is not computed with again. Chance
//! is a function of the place, and gradients are made anew for the first step.

use crate::comm::solo::Solo;
use crate::comm::{Collective, Op};
use crate::data::batch::Batch;
use crate::data::{Extents, RandomKey, Sampler};
use crate::error::{Error, Kind, Result};
use crate::ffi::device::{attempt, empty_cache, synchronize};
use crate::ffi::memory::device_total;
use crate::ffi::{self, transfer};
use crate::nn::Pass;
use crate::parallel::{Gradients, Weights};
use crate::train::memory_need::{self, LEAST_TOKENS};
use crate::train::session::Session;
use crate::train::staged::Staged;
use crate::train::{feed, settings};
use std::sync::Arc;
use tch::{Kind as Type, Tensor};

/// The share of a GPU that a trial leaves free: the libraries' buffers, and micro-batches of another shape.
const SPARE: f64 = 0.05;

/// The most tokens, from those that the plan has chosen down by halves, that every rank has room for. All ranks call it.
///
/// # Errors
/// Exit 6 where there is no room for the fewest; libtorch's.
pub fn most_tokens(session: &Session) -> Result<usize> {
    let comm = session.comm.as_ref();
    let found =
        comm.agree(halved(session.micro_batch_tokens, |tokens| pass(session, tokens)), "trying a micro-batch")?;
    let mut least = [-(found as f64)];
    comm.all_reduce_f64(&mut least, Op::Max, "tokens of a micro-batch")?;
    Ok(-least[0] as usize)
}

/// The first of `tokens`, a half of it, and so on that does not run out of memory.
fn halved(mut tokens: usize, mut pass: impl FnMut(usize) -> Result<()>) -> Result<usize> {
    loop {
        match pass(tokens) {
            Ok(()) => return Ok(tokens),
            Err(e) if e.kind() == Kind::OutOfMemory && tokens / 2 >= LEAST_TOKENS => tokens /= 2,
            Err(e) => return Err(e.context(format!("micro_batch_tokens = \"auto\": a pass of {tokens} tokens"))),
        }
    }
}

/// Sees whether there is room for micro-batches of so many tokens.
///
/// # Errors
/// Out of memory; libtorch's.
pub fn pass(session: &Session, tokens: usize) -> Result<()> {
    let Session { comm, loaded, .. } = session;
    let params = &loaded.params;
    let silent: Arc<dyn Collective> = Arc::new(Solo::rehearsing(comm.as_ref()));
    let mut weights = loaded.weights.rehearsing(Arc::clone(&silent));
    let result = attempt(|| run(session, &silent, &mut weights, tokens));
    // Whatever a pass that was broken off has left.
    weights.release_all(params)?;
    params.ids().try_for_each(|id| ffi::clear_grad(params.view(id)))?;
    empty_cache(comm.device())?;
    result
}

fn run(session: &Session, silent: &Arc<dyn Collective>, weights: &mut Weights, tokens: usize) -> Result<()> {
    let Session { config, loaded, data, .. } = session;
    let (model, params, device) = (&loaded.model, &loaded.params, silent.device());
    let (stages, world, dataset) = (model.stages(), silent.world(), &data.train.dataset);
    let config = memory_need::with_tokens(config, data, tokens, true);
    let setup = memory_need::setup(&config, stages, weights.zero(), false);
    let load = memory_need::load(&config, model, params.layout(), &setup, data, world)?;
    let batch = config.train.global_batch_size;
    let mut sampler = Sampler::new(config.seed, dataset.lengths(), batch, world, tokens)?;
    let plan = sampler.plan(load.step);
    let heaviest = plan.shards.iter().flatten().find(|micro| Extents::of(dataset, micro) == load.busiest);
    let heaviest = heaviest.ok_or_else(|| Error::other("the plan's heaviest micro-batch is not in its step"))?;
    let draw = RandomKey { seed: config.seed, step: load.step + 1 };
    let mut rows = feed::rows_of(dataset, &plan, draw);
    transfer::upload(&mut [rows.tensor_mut()], device)?.wait()?;
    let batch = Batch::on(device, dataset, heaviest, draw)?;

    let owned = |unit| weights.zero().owned(unit, silent.rank(), world);
    let trained = params.layout().units().iter().filter(|unit| unit.is_trained());
    let moments: i64 = trained.map(owned).map(|owned| 8 * (owned.end - owned.start)).sum();
    let spare = device_total(device).map_or(0, |all| (all as f64 * SPARE) as i64);
    let _others = Tensor::f_empty([moments + spare], (Type::Uint8, device))?;
    let reduce = settings::kind(config.parallel.reduce_dtype);
    let mut gradients = Gradients::new(params, Arc::clone(silent), weights.zero(), reduce)?;
    gradients.begin(params, rows)?;
    let recompute = settings::recompute(&config);
    let pass = Pass { seed: config.seed, step: 0, micro_batch: 0, rank: silent.rank() as u64 };
    let forward = Staged { model, params, recompute, watch: None }.forward(weights, Some(&batch), pass)?;
    let scales: Vec<f64> = batch.counts().iter().map(|&count| 1.0 / count.max(1) as f64).collect();
    forward.backward(weights, &mut gradients, &scales, true)?;
    gradients.finish(params)?;
    drop(gradients.squares(params)?);
    synchronize(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_halved_until_there_is_room() {
        let room = |most: usize| {
            move |tokens: usize| if tokens <= most { Ok(()) } else { Err(Error::new(Kind::OutOfMemory, "out")) }
        };
        assert_eq!(halved(1 << 16, room(1 << 20)).unwrap(), 1 << 16);
        assert_eq!(halved(1 << 16, room(5000)).unwrap(), 4096);
        let e = halved(1 << 16, room(100)).unwrap_err();
        assert!(e.kind() == Kind::OutOfMemory && e.to_string().contains("a pass of 512 tokens: out"), "{e}");
        let mut tries = 0;
        let e = halved(1 << 16, |_| {
            tries += 1;
            Err(Error::other("a bug"))
        });
        assert!(e.unwrap_err().kind() == Kind::Other && tries == 1, "only memory is tried again");
    }
}
