//! The input of each step, prepared ahead on another thread.

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

/// Number of steps prepared ahead.
const AHEAD: usize = 3;

/// One rank's input of an optimizer step, on its device or being copied there ([`StepInput::arrived`]).
#[derive(Debug)]
pub struct StepInput {
    /// From 1.
    pub step: u64,
    /// This rank's micro-batches; may be empty.
    pub batches: Vec<Batch>,
    /// Number of micro-batches of the rank with the most.
    pub micro_batches: usize,
    /// The token ids in the global batch.
    pub rows: Rows,
    /// Number of tokens in the global batch.
    pub tokens: u64,
    /// Copies from host to device for this input.
    pub copies: Copies,
    arrivals: Vec<Arrival>,
}

impl StepInput {
    /// Makes the work that this thread queues from now on wait for the copies to the device.
    pub fn arrived(&mut self) -> Result<()> {
        self.arrivals.drain(..).try_for_each(Arrival::wait)
    }
}

/// Returns the token ids in a global batch, on the CPU. Every rank computes them from the plan for all ranks.
pub fn rows_of(dataset: &Dataset, plan: &StepPlan, key: RandomKey) -> Rows {
    let seen = |&i: &u32| dataset.inputs(i as usize, key).ids;
    Rows::new(plan.shards.iter().flatten().flatten().flat_map(seen).map(i64::from).collect())
}

/// Returns the inputs of steps `first..=last` for this rank.
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
        // The current GPU is per thread.
        set_current(device)?;
        let plan = sampler.plan(step - 1);
        let draw = RandomKey { seed, step, epoch: plan.epoch };
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
