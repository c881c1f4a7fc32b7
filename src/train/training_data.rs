//! The data of a run, and what each step takes of it.

use crate::checkpoint::TrainerState;
use crate::comm::Collective;
use crate::data::{Dataset, Prefetch, Prepared, Sampler};
use crate::error::Result;
use crate::tasks::Model;
use crate::train::feed::{self, StepInput, Streamed};
use crate::train::reading::Data;
use crate::train::shards::{self, Shards};
use crate::train::streaming;
use std::sync::Arc;

/// The data of a run.
pub struct TrainingData {
    /// With a stream its first examples.
    train: Arc<Dataset>,
    pub eval: Option<Arc<Prepared>>,
    /// Those of `data.eval_sets`, by name.
    pub eval_sets: Arc<Vec<(String, Prepared)>>,
    sampler: Sampler,
    stream: Option<Arc<Shards>>,
    /// Numbers of rows of the embedding matrix and of the segment embeddings.
    rows: [usize; 2],
    micro_batch_tokens: usize,
}

impl TrainingData {
    /// `micro_batch_tokens` is the maximum number of tokens of a micro-batch of this model.
    pub fn new(data: Data, sampler: Sampler, model: &Model, micro_batch_tokens: usize) -> Self {
        let Data { train, stream, eval, eval_sets, .. } = data;
        let rows = [model.backbone.vocab_size(), model.backbone.segments()];
        let (train, eval, eval_sets) = (Arc::new(train.dataset), eval.map(Arc::new), Arc::new(eval_sets));
        TrainingData { train, eval, eval_sets, sampler, stream, rows, micro_batch_tokens }
    }

    /// Returns the inputs of the steps after those of `state`, for this rank.
    ///
    /// # Errors
    /// Those of [`streaming::open`]; the system cannot start a thread.
    pub fn feed(&self, seed: u64, comm: &dyn Collective, state: &TrainerState) -> Result<Prefetch<StepInput>> {
        let (first, last) = (state.global_step + 1, state.max_steps);
        let (rank, device) = (comm.rank(), comm.device());
        let (Some(shards), Some(at)) = (&self.stream, &state.stream) else {
            return feed::feed(Arc::clone(&self.train), self.sampler.clone(), seed, rank, device, first, last);
        };
        let stream = streaming::open(shards, shards::position(at), self.rows)?;
        let split = (comm.world(), self.micro_batch_tokens);
        feed::feed_stream(stream, (*self.train).clone(), split, seed, (rank, device), first..=last)
    }

    /// Numbers of examples for training and of each evaluation set; of a stream, that of the first examples.
    pub fn examples(&self) -> Vec<usize> {
        let main = self.eval.iter().map(|eval| eval.dataset.len());
        let sets = self.eval_sets.iter().map(|(_, set)| set.dataset.len());
        std::iter::once(self.train.len()).chain(main).chain(sets).collect()
    }
}

/// Records in the state how far a stream was read for a step; returns messages for the user.
pub fn record(streamed: Streamed, state: &mut TrainerState) -> Vec<String> {
    let Streamed { position, epoch, notes } = streamed;
    state.epoch = epoch;
    state.stream.iter_mut().for_each(|state| shards::advance(state, position));
    notes
}
