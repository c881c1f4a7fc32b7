//! Estimates the time of a run on different numbers of ranks.

use crate::data::{Dataset, Extents, Sampler, StepPlan};
use crate::error::Result;
use crate::nn::param_builder::ParamSpec;
use crate::nn::{Cost, Layout};
use crate::plan::device::Speed;
use crate::plan::link::Network;
use crate::plan::memory::Setup;
use crate::plan::timeline::{self, Step};
use crate::tasks::Model;

/// World sizes in the table.
pub const WORLDS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Number of steps of a run to simulate, evenly spaced.
const STEPS: u64 = 8;

/// A run, independent of the number of ranks.
pub struct Run<'a> {
    pub model: &'a Model,
    /// The frozen model that it learns from too.
    pub teacher: Option<&'a Model>,
    pub specs: &'a [ParamSpec],
    pub setup: &'a Setup,
    pub dataset: &'a Dataset,
    pub seed: u64,
    pub micro_batch_tokens: usize,
    /// Returns the number of shards of a unit for a number of ranks.
    pub shards: &'a dyn Fn(usize) -> usize,
    /// Returns the global batch size for a number of ranks.
    pub global_batch: &'a dyn Fn(usize) -> usize,
    /// Returns the total number of steps, given the steps per epoch.
    pub total_steps: &'a dyn Fn(u64) -> u64,
}

/// The estimates for one world size, averaged over steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    pub ranks: usize,
    pub step: Step,
    pub steps: u64,
    /// Examples in a global batch, at most the whole data set.
    pub global_batch: usize,
    /// Tokens per step, and tokens per second of all ranks.
    pub tokens: f64,
    pub tokens_per_second: f64,
    /// FLOPs of a step over all ranks, three times those of the forward pass, up to four times with gradient
    /// caching.
    pub flops: f64,
    /// Work of the busiest rank divided by the mean work per rank.
    pub imbalance: f64,
}

impl Row {
    /// Duration of the whole run in seconds, without evaluation and checkpoints.
    pub fn run_seconds(&self) -> f64 {
        self.step.seconds * self.steps as f64
    }

    /// Tokens per second per rank.
    pub fn per_rank(&self) -> f64 {
        self.tokens_per_second / self.ranks as f64
    }
}

impl Run<'_> {
    /// Estimates the run on `ranks` ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn on(&self, ranks: usize, speed: Speed, network: &Network) -> Result<Row> {
        let layout = Layout::new(self.specs, (self.shards)(ranks));
        let global_batch = (self.global_batch)(ranks);
        let mut sampler = Sampler::new(self.seed, self.dataset, global_batch, ranks, self.micro_batch_tokens)?;
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

    /// Simulates one step; also returns the FLOPs of each rank's forward pass.
    pub fn step(&self, layout: &Layout, plan: &StepPlan, speed: Speed, network: &Network) -> (Step, Vec<f64>) {
        let work: Vec<Vec<Vec<Cost>>> =
            plan.shards.iter().map(|shard| self.costs(self.model, shard, plan.epoch)).collect();
        let taught = |shard: &Vec<Vec<u32>>| -> Vec<Cost> {
            let costs = self.teacher.map(|teacher| self.costs(teacher, shard, plan.epoch)).unwrap_or_default();
            costs.into_iter().map(|blocks| blocks.into_iter().sum()).collect()
        };
        let taught: Vec<Vec<Cost>> = plan.shards.iter().map(taught).collect();
        let embeddings = self.model.task.contrast().map(|_| self.embeddings(plan));
        // A third of a teacher's and of what runs forward twice: backward is two thirds of the others.
        let flops = |(shard, taught): (&Vec<Vec<Cost>>, &Vec<Cost>)| {
            let of = |costs: &[Vec<Cost>]| costs.iter().flatten().map(|cost| cost.flops).sum::<f64>();
            let twice = if embeddings.is_some() { shard.get(1..).map_or(0.0, of) } else { 0.0 };
            of(shard) + (twice + taught.iter().map(|cost| cost.flops).sum::<f64>()) / 3.0
        };
        let each: Vec<f64> = work.iter().zip(&taught).map(flops).collect();
        let slowest = (0..each.len()).max_by(|&a, &b| each[a].total_cmp(&each[b])).unwrap_or_default();
        // Ranks with fewer micro-batches run empty ones with the same collectives.
        let micro_batches = work.iter().map(Vec::len).max().unwrap_or_default();
        let mut busiest = work[slowest].clone();
        busiest.resize(micro_batches, vec![Cost::default(); self.model.blocks()]);
        let (setup, ranks, rows) = (self.setup, plan.shards.len(), self.rows(plan));
        let taught = &taught[slowest];
        let plan = timeline::Plan { layout, setup, speed, network, ranks, rows, taught, embeddings };
        (plan.step(&busiest), each)
    }

    /// Bytes of the embeddings of all matches and negatives of a step, which the ranks exchange in fp32.
    fn embeddings(&self, plan: &StepPlan) -> f64 {
        let samples = plan.shards.iter().flatten().flatten();
        let others = samples.map(|&i| self.dataset.sequences_in(i as usize, plan.epoch).len().saturating_sub(1));
        4.0 * others.sum::<usize>() as f64 * self.model.backbone.head_input().width as f64
    }

    /// Returns the costs of a model's blocks for each micro-batch.
    fn costs(&self, model: &Model, shard: &[Vec<u32>], epoch: u64) -> Vec<Vec<Cost>> {
        let how = self.setup.how();
        let of = |micro: &Vec<u32>| {
            let x = Extents::in_epoch(self.dataset, micro, epoch);
            (0..model.blocks()).map(|block| model.cost(block, &x, &how)).collect()
        };
        shard.iter().map(of).collect()
    }

    /// Number of distinct token ids in a step.
    fn rows(&self, plan: &StepPlan) -> f64 {
        let mut seen: Vec<bool> = Vec::new();
        for &i in plan.shards.iter().flatten().flatten() {
            for &id in self.dataset.ids_in(i as usize, plan.epoch).iter() {
                let id = id as usize;
                if id >= seen.len() {
                    seen.resize(id + 1, false);
                }
                seen[id] = true;
            }
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
            (&mut sum.exposed_communication, step.exposed_communication),
            (&mut sum.collectives, step.collectives),
            (&mut sum.bytes, step.bytes),
            (&mut sum.between_hosts, step.between_hosts),
        ] {
            *to += from / parts;
        }
    }
}
