//! What each step eats: made ahead, off the training thread.

use crate::data::batch::Batch;
use crate::data::collation::Draw;
use crate::data::dataset::Dataset;
use crate::data::prefetch::Prefetch;
use crate::data::sampler::Sampler;
use crate::error::Result;
use crate::ffi::device::set_current;
use crate::parallel::Rows;
use std::sync::Arc;
use tch::Device;

/// Steps made ahead.
const AHEAD: usize = 3;

/// One rank's part of an optimizer step.
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
        let draw = Draw { seed, step };
        let batches = plan.shards[rank].iter().map(|micro| Batch::collate(&dataset, micro, draw, device)).collect();
        // What a rank's batches hold is a function of the plan, so every rank knows it of all.
        let seen = |&i: &u32| dataset.collation().inputs(&dataset, i as usize, draw).ids;
        let rows = plan.shards.iter().flatten().flatten().flat_map(seen).map(i64::from).collect();
        let rows = Rows::new(rows, device);
        let micro_batches = plan.shards.iter().map(Vec::len).max().unwrap_or_default();
        Result::Ok(StepInput { step, batches, micro_batches, rows, tokens: plan.tokens })
    });
    Prefetch::new(AHEAD, steps)
}
