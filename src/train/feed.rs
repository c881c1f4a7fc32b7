//! What each step eats: made ahead, off the training thread.

use crate::data::RandomKey;
use crate::data::batch::Batch;
use crate::data::dataset::Dataset;
use crate::data::prefetch::Prefetch;
use crate::data::sampler::{Sampler, StepPlan};
use crate::error::Result;
use crate::ffi::device::set_current;
use crate::ffi::transfer::{self, Arrival, Copies};
use crate::parallel::Rows;
use std::sync::Arc;
use tch::Device;

/// Steps made ahead.
const AHEAD: usize = 3;

/// One rank's part of an optimizer step, on its device or on the way there ([`StepInput::arrived`]).
#[derive(Debug)]
pub struct StepInput {
    /// From 1.
    pub step: u64,
    /// This rank's micro-batches, maybe none.
    pub batches: Vec<Batch>,
    /// The most micro-batches that any rank has.
    pub micro_batches: usize,
    /// The token ids that the global batch holds on any rank.
    pub rows: Rows,
    /// Tokens of the global batch.
    pub tokens: u64,
    /// Copies that brought it to the device.
    pub copies: Copies,
    arrivals: Vec<Arrival>,
}

impl StepInput {
    /// Orders the copies to the device before the work that this thread queues from now on.
    ///
    /// # Errors
    /// libtorch's.
    pub fn arrived(&mut self) -> Result<()> {
        self.arrivals.drain(..).try_for_each(Arrival::wait)
    }
}

/// The token ids that a global batch holds on any rank, on the CPU: what a rank's batches hold is a function of the plan,
/// so every rank knows it of all.
pub fn rows_of(dataset: &Dataset, plan: &StepPlan, key: RandomKey) -> Rows {
    let seen = |&i: &u32| dataset.inputs(i as usize, key).ids;
    Rows::new(plan.shards.iter().flatten().flatten().flat_map(seen).map(i64::from).collect())
}

/// Steps `first..=last` of a run, for this rank.
pub fn feed(
    dataset: Arc<Dataset>,
    mut sampler: Sampler,
    seed: u64,
    rank: usize,
    device: Device,
    first: u64,
    last: u64,
) -> Result<Prefetch<StepInput>> {
    let steps = (first..=last).map(move |step| {
        // A thread of its own, with a current GPU of its own.
        set_current(device)?;
        let plan = sampler.plan(step - 1);
        let draw = RandomKey { seed, step };
        let mut rows = rows_of(&dataset, &plan, draw);
        let before = transfer::copies();
        let mut arrivals = Vec::new();
        let mut batches: Vec<Batch> =
            plan.shards[rank].iter().map(|micro| Batch::collate(&dataset, micro, draw)).collect();
        match batches.split_first_mut() {
            Some((first, rest)) => {
                arrivals.push(first.upload(vec![rows.tensor_mut()], device)?);
                for batch in rest {
                    arrivals.push(batch.upload(Vec::new(), device)?);
                }
            }
            None => arrivals.push(transfer::upload(&mut [rows.tensor_mut()], device)?),
        }
        let micro_batches = plan.shards.iter().map(Vec::len).max().unwrap_or_default();
        let copies = transfer::copies() - before;
        Result::Ok(StepInput { step, batches, micro_batches, rows, tokens: plan.tokens, copies, arrivals })
    });
    Prefetch::new(AHEAD, steps)
}
