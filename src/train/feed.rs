//! The input of each step, prepared ahead on another thread.

use crate::data::RandomKey;
use crate::data::batch::Batch;
use crate::data::dataset::Dataset;
use crate::data::prefetch::Prefetch;
use crate::data::sampler::{Sampler, StepPlan, batch_plan};
use crate::data::stream::{Position, Stream};
use crate::error::Result;
use crate::ffi::device::set_current;
use crate::ffi::transfer::{self, Arrival, Copies};
use crate::parallel::Rows;
use std::ops::RangeInclusive;
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
    /// How far the shards were read for it; only with a stream.
    pub streamed: Option<Streamed>,
    arrivals: Vec<Arrival>,
}

/// How far a stream was read.
#[derive(Debug)]
pub struct Streamed {
    /// The position after the step.
    pub position: Position,
    pub epoch: f64,
    /// Messages for the user.
    pub notes: Vec<String>,
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
        input(&dataset, &plan, draw, (rank, device))
    });
    Prefetch::new(AHEAD, steps)
}

/// Returns the inputs of these steps for this rank from a stream, whose examples are like those of `like`; `split` are
/// the number of ranks and the maximum number of tokens of a micro-batch.
///
/// # Errors
/// The system cannot start a thread.
pub fn feed_stream(
    mut stream: Stream,
    like: Dataset,
    split: (usize, usize),
    seed: u64,
    (rank, device): (usize, Device),
    steps: RangeInclusive<u64>,
) -> Result<Prefetch<StepInput>> {
    let steps = steps.map(move |step| {
        set_current(device)?;
        let mut taken = stream.take()?;
        let (epoch, notes) = (taken.epoch, std::mem::take(&mut taken.notes));
        let streamed = Some(Streamed { position: taken.position, epoch, notes });
        let (pass, numbers) = (taken.pass, std::mem::take(&mut taken.numbers));
        let dataset = taken.dataset(&like);
        let plan = batch_plan(&dataset, split.0, split.1, pass);
        let mut input = input(&dataset, &plan, RandomKey { seed, step, epoch: pass }, (rank, device))?;
        // Messages name examples by their number in the pass.
        for sample in input.batches.iter_mut().flat_map(|batch| &mut batch.samples) {
            *sample = numbers[*sample as usize] as u32;
        }
        Ok(StepInput { streamed, ..input })
    });
    Prefetch::new(AHEAD, steps)
}

/// Returns a rank's input of the step with this plan.
fn input(dataset: &Dataset, plan: &StepPlan, draw: RandomKey, (rank, device): (usize, Device)) -> Result<StepInput> {
    let mut rows = rows_of(dataset, plan, draw);
    let before = transfer::copies();
    let mut arrivals = Vec::new();
    let mut batches: Vec<Batch> = plan.shards[rank].iter().map(|micro| Batch::collate(dataset, micro, draw)).collect();
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
    let (copies, tokens) = (transfer::copies() - before, plan.tokens);
    Ok(StepInput { step: draw.step, batches, micro_batches, rows, tokens, copies, streamed: None, arrivals })
}
