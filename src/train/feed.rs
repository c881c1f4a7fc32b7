//! What each step eats: made ahead, off the training thread.

use crate::data::batch::Batch;
use crate::data::dataset::Dataset;
use crate::data::prefetch::Prefetch;
use crate::data::sampler::Sampler;
use crate::error::Result;
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
    rank: usize,
    device: Device,
    first: u64,
    last: u64,
) -> Result<Prefetch<StepInput>> {
    let steps = (first..=last).map(move |step| {
        let plan = sampler.plan(step - 1);
        let batches = plan.shards[rank].iter().map(|micro| Batch::collate(&dataset, micro, device)).collect();
        let samples = plan.shards.iter().flatten().flatten();
        let rows = samples.flat_map(|&i| dataset.ids(i as usize).iter().map(|&id| i64::from(id))).collect();
        let rows = Rows::new(rows, device);
        let micro_batches = plan.shards.iter().map(Vec::len).max().unwrap_or_default();
        Result::Ok(StepInput { step, batches, micro_batches, rows, tokens: plan.tokens })
    });
    Prefetch::new(AHEAD, steps)
}
