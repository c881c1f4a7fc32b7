//! What each step eats: made ahead, off the training thread.

use crate::data::batch::Batch;
use crate::data::dataset::Dataset;
use crate::data::prefetch::Prefetch;
use crate::data::sampler::Sampler;
use crate::error::Result;
use std::sync::Arc;
use tch::{Device, Tensor};

/// Steps made ahead.
const AHEAD: usize = 3;

/// One rank's part of an optimizer step.
#[derive(Debug)]
pub struct StepInput {
    /// From 1.
    pub step: u64,
    /// This rank's micro-batches, maybe none.
    pub batches: Vec<Batch>,
    /// i64 `[U]`, ascending: the token ids that the global batch holds on any rank.
    pub rows: Tensor,
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
        let mut rows: Vec<i64> =
            samples.flat_map(|&i| dataset.ids(i as usize).iter().map(|&id| i64::from(id))).collect();
        rows.sort_unstable();
        rows.dedup();
        let rows = Tensor::from_slice(&rows).to_device(device);
        Result::Ok(StepInput { step, batches, rows, tokens: plan.tokens })
    });
    Prefetch::new(AHEAD, steps)
}
