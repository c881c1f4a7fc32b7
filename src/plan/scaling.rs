//! The same run on one rank and on many.

use crate::data::{Dataset, Extents, Sampler, StepPlan};
use crate::error::Result;
use crate::nn::param_builder::ParamSpec;
use crate::nn::{Cost, Layout};
use crate::plan::device::Speed;
use crate::plan::link::Network;
use crate::plan::memory::Setup;
use crate::plan::timeline::{self, Step};
use crate::tasks::Model;

/// Worlds that a table shows.
pub const WORLDS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Steps of a run that are looked at, evenly spread.
const STEPS: u64 = 8;

/// What a run is, whatever the number of its ranks.
pub struct Run<'a> {
    pub model: &'a Model,
    pub specs: &'a [ParamSpec],
    pub setup: &'a Setup,
    pub dataset: &'a Dataset,
    pub seed: u64,
    pub micro_batch_tokens: usize,
    /// Of a run on so many ranks.
    pub global_batch: &'a dyn Fn(usize) -> usize,
    /// Steps of such a run, by those of an epoch.
    pub total_steps: &'a dyn Fn(u64) -> u64,
}

/// A world's figures, on average over steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    pub ranks: usize,
    pub step: Step,
    pub steps: u64,
    /// Examples of a global batch: no more than there are.
    pub global_batch: usize,
    /// Real tokens of a step, and of all ranks in a second.
    pub tokens: f64,
    pub tokens_per_second: f64,
    /// Floating-point operations of a step of all ranks, three times forward's.
    pub flops: f64,
    /// The slowest rank's work over the mean one's.
    pub imbalance: f64,
}

impl Row {
    /// Seconds of the whole run, without evaluation and saving.
    pub fn run_seconds(&self) -> f64 {
        self.step.seconds * self.steps as f64
    }

    /// Real tokens a second of a rank.
    pub fn per_rank(&self) -> f64 {
        self.tokens_per_second / self.ranks as f64
    }
}

impl Run<'_> {
    /// What so many ranks take.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn on(&self, ranks: usize, speed: Speed, network: &Network) -> Result<Row> {
        let layout = Layout::new(self.specs, ranks);
        let global_batch = (self.global_batch)(ranks);
        let mut sampler =
            Sampler::new(self.seed, self.dataset.lengths(), global_batch, ranks, self.micro_batch_tokens)?;
        let steps = (self.total_steps)(sampler.steps_per_epoch());
        let looked_at = steps.min(STEPS);
        let mut row = Row {
            ranks,
            step: Step::default(),
            steps,
            global_batch: global_batch.min(self.dataset.len()),
            tokens: 0.0,
            tokens_per_second: 0.0,
            flops: 0.0,
            imbalance: 0.0,
        };
        for index in 0..looked_at {
            let plan = sampler.plan(index * steps / looked_at);
            let (step, each) = self.step(&layout, &plan, speed, network);
            row.add(&step, looked_at as f64);
            row.tokens += plan.tokens as f64 / looked_at as f64;
            let all: f64 = each.iter().sum();
            let most = each.iter().copied().fold(0.0, f64::max);
            row.flops += 3.0 * all / looked_at as f64;
            row.imbalance += most / (all / ranks as f64).max(1.0) / looked_at as f64;
        }
        row.tokens_per_second = row.tokens / row.step.seconds;
        Ok(row)
    }

    /// What one step takes, and the products of each rank's forward.
    pub fn step(&self, layout: &Layout, plan: &StepPlan, speed: Speed, network: &Network) -> (Step, Vec<f64>) {
        let work: Vec<Vec<Vec<Cost>>> = plan.shards.iter().map(|shard| self.costs(shard)).collect();
        let flops = |shard: &Vec<Vec<Cost>>| shard.iter().flatten().map(|cost| cost.flops).sum::<f64>();
        let each: Vec<f64> = work.iter().map(flops).collect();
        let slowest = (0..each.len()).max_by(|&a, &b| each[a].total_cmp(&each[b])).unwrap_or_default();
        // Those who are done earlier run empty micro-batches with the same collectives.
        let micro_batches = work.iter().map(Vec::len).max().unwrap_or_default();
        let mut busiest = work[slowest].clone();
        busiest.resize(micro_batches, vec![Cost::default(); self.model.stages()]);
        let (setup, ranks, rows) = (self.setup, plan.shards.len(), self.rows(&plan.shards));
        (timeline::Plan { layout, setup, speed, network, ranks, rows }.step(&busiest), each)
    }

    /// Of each micro-batch the costs of the stages.
    fn costs(&self, shard: &[Vec<u32>]) -> Vec<Vec<Cost>> {
        let how = self.setup.how();
        let of = |micro: &Vec<u32>| {
            let x = Extents::of(self.dataset, micro);
            (0..self.model.stages()).map(|stage| self.model.cost(stage, &x, &how)).collect()
        };
        shard.iter().map(of).collect()
    }

    /// Different token ids of a step.
    fn rows(&self, shards: &[Vec<Vec<u32>>]) -> f64 {
        let mut seen: Vec<bool> = Vec::new();
        for &id in shards.iter().flatten().flatten().flat_map(|&i| self.dataset.ids(i as usize)) {
            let id = id as usize;
            if id >= seen.len() {
                seen.resize(id + 1, false);
            }
            seen[id] = true;
        }
        seen.into_iter().filter(|&seen| seen).count() as f64
    }
}

impl Row {
    fn add(&mut self, step: &Step, parts: f64) {
        let sum = &mut self.step;
        for (to, from) in [
            (&mut sum.seconds, step.seconds),
            (&mut sum.linear, step.linear),
            (&mut sum.attention, step.attention),
            (&mut sum.passing, step.passing),
            (&mut sum.update, step.update),
            (&mut sum.waiting, step.waiting),
            (&mut sum.collectives, step.collectives),
            (&mut sum.bytes, step.bytes),
        ] {
            *to += from / parts;
        }
    }
}
