//! Chooses the lowest ZeRO stage, the fewest checkpointed blocks and the largest micro-batch that fit in the memory of
//! every rank.

use crate::comm::nccl::ranks_of_a_gpu;
use crate::comm::{Collective, Op};
use crate::config::{
    Config, IntervalStrategy, MicroBatchTokens, Offload, Precision, Recompute, ShardWithin, ZeroStage,
};
use crate::data::{Extents, Sampler};
use crate::error::{Error, Result};
use crate::ffi::memory::device_total;
use crate::nn::Layout;
use crate::nn::param_builder::ParamSpec;
use crate::observe::memory::{available_bytes, human};
use crate::parallel::Zero;
use crate::plan::load::{Load, Teaching};
use crate::plan::memory::{self, MemoryEstimate, Setup, Types};
use crate::tasks::Model;
use crate::train::model_loading::Shaped;
use crate::train::optimizers;
use crate::train::reading::Data;
use crate::train::settings::{self, CPU_MICRO_BATCH_TOKENS};
use tch::{Cuda, Device};

/// Fraction of the memory that a plan may use. The rest is for what is not counted: libraries, fragmentation, batches.
pub const USABLE_FRACTION: f64 = 0.9;

/// Settings of a run that determine its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    pub zero: Zero,
    pub micro_batch_tokens: usize,
    /// Never `auto`.
    pub recompute: Recompute,
}

/// Values that `"auto"` tries for `train.micro_batch_tokens`, largest first.
pub const TOKEN_CANDIDATES: [usize; 9] =
    [1 << 17, 1 << 16, 1 << 15, 1 << 14, 1 << 13, CPU_MICRO_BATCH_TOKENS, 1 << 11, 1 << 10, MIN_TOKENS];
pub const MIN_TOKENS: usize = 512;
/// Number of examples that `"auto"` looks at to find the largest micro-batch.
const SAMPLED_EXAMPLES: u64 = 100_000;
/// Number of steps that it looks at to find the tokens per rank and step.
const STEPS: u64 = 16;

/// Returns the configured ZeRO stage, activation checkpointing and micro-batch tokens; for `"auto"` the fewest
/// checkpointed blocks and then the lowest stage that fit in the memory of every rank, and then the largest micro-batch
/// that fits. `before` is the value of a resumed run. If the stage is set and the memory limit is not, a run that does
/// not fit starts with the smallest micro-batch, and `recompute = "auto"` checkpoints every block.
///
/// # Errors
/// Exit 2 when `zero_stage = "auto"` or `memory_per_rank` is set and nothing fits, with the memory of each stage.
pub fn choose(
    config: &Config,
    shaped: &Shaped,
    data: &Data,
    comm: &dyn Collective,
    before: Option<usize>,
) -> Result<MemoryPlan> {
    let (parallel, cpu) = (&config.parallel, comm.device() == Device::Cpu);
    let candidates = Candidates::of(config, before, cpu)?;
    if let Some(plan) = candidates.only_choice() {
        return Ok(plan);
    }
    let gpus = Cuda::device_count().max(0) as usize;
    let own = match (parallel.memory_per_rank, comm.device()) {
        (Some(bytes), _) => Some(bytes.0),
        (None, Device::Cpu) => available_bytes().map(|bytes| bytes / comm.local_world() as u64),
        (None, device) => device_total(device).map(|all| all / ranks_of_a_gpu(comm.local_world(), gpus) as u64),
    };
    // The rank with the least memory decides; if one rank cannot determine its memory, all fail.
    let mut least = [own.map_or(f64::NEG_INFINITY, |bytes| -(bytes as f64))];
    comm.all_reduce_f64(&mut least, Op::Max, "memory of the ranks")?;
    if own.is_none() {
        return Err(unknown_memory());
    }
    let limit = -least[0] * if parallel.memory_per_rank.is_some() { 1.0 } else { USABLE_FRACTION };
    let place = Ranks { world: comm.world(), per_host: comm.local_world(), cpu };
    let found = candidates.fit(config, shaped, data, place, limit)?;
    let auto = parallel.zero_stage == ZeroStage::Auto;
    match found {
        Fit::Chosen(plan, need) => {
            if parallel.recompute == Recompute::Auto {
                tracing::info!("recompute = \"auto\": {}", plan.recompute);
            }
            if auto {
                let (stage, need, limit) = (plan.zero.stage(), human(need as u64), human(limit as u64));
                tracing::info!("zero_stage = \"auto\": {stage} (needs about {need} of {limit} per rank)");
            }
            Ok(plan)
        }
        Fit::Nothing(needs) if auto || parallel.memory_per_rank.is_some() => {
            Err(nothing_fits(config, &candidates, &needs, limit, cpu))
        }
        Fit::Nothing(_) => Ok(candidates.least()),
    }
}

/// Checks that the optimizer state of all ranks of this host fits in its memory, if it is to be there.
///
/// # Errors
/// Exit 2, with both figures and the remedies.
pub fn check_host(config: &Config, shaped: &Shaped, comm: &dyn Collective, zero: Zero) -> Result<()> {
    let (here, cpu) = (comm.local_world(), comm.device() == Device::Cpu);
    let layout = Layout::new(&shaped.specs, settings::shards(config, comm.world(), here));
    let need = setup(config, (&shaped.model, &shaped.specs), zero, cpu).host(&layout) * here as f64;
    host_fits(need, available_bytes(), here)
}

fn host_fits(need: f64, free: Option<u64>, ranks: usize) -> Result<()> {
    let Some(free) = free.filter(|&free| need > free as f64) else { return Ok(()) };
    let (need, free) = (human(need as u64), human(free));
    Err(Error::input(format!(
        "parallel.offload = \"optimizer\": the optimizer state of the {ranks} ranks of this host needs {need}, and {free} \
         of its memory are free: use a higher parallel.zero_stage or more hosts, or set offload = \"none\""
    )))
}

/// The ranks of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    pub world: usize,
    /// Ranks on each host.
    pub per_host: usize,
    /// Whether they compute on CPUs.
    pub cpu: bool,
}

/// The settings to choose from.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    zeros: Vec<Zero>,
    /// Values of `train.micro_batch_tokens`, largest first.
    tokens: Vec<usize>,
    /// Activation checkpointing, as configured.
    recompute: Recompute,
}

/// Result of the search.
#[derive(Debug)]
pub enum Fit {
    /// The settings, and the bytes that they need.
    Chosen(MemoryPlan, f64),
    /// The memory of each stage with the smallest micro-batch.
    Nothing(Vec<(Zero, MemoryEstimate)>),
}

impl Candidates {
    /// Returns the settings that the configuration leaves open.
    ///
    /// # Errors
    /// Exit 2 for an invalid ZeRO stage.
    pub fn of(config: &Config, before: Option<usize>, cpu: bool) -> Result<Self> {
        let parallel = &config.parallel;
        let zeros = match parallel.zero_stage {
            ZeroStage::Auto => Zero::ALL.to_vec(),
            ZeroStage::Stage(stage) => {
                let zero = Zero::new(stage);
                vec![zero.ok_or_else(|| Error::input(format!("parallel.zero_stage = {stage}: 0 to 3")))?]
            }
        };
        let tokens = match config.train.micro_batch_tokens.given().or(before) {
            Some(n) => vec![n],
            None if cpu && parallel.memory_per_rank.is_none() => vec![CPU_MICRO_BATCH_TOKENS],
            None => TOKEN_CANDIDATES.into_iter().filter(|&n| !cpu || n <= CPU_MICRO_BATCH_TOKENS).collect(),
        };
        Ok(Candidates { zeros, tokens, recompute: parallel.recompute })
    }

    /// Returns the settings if there is nothing to choose.
    pub fn only_choice(&self) -> Option<MemoryPlan> {
        let one = self.zeros.len() == 1 && self.tokens.len() == 1 && self.recompute != Recompute::Auto;
        one.then(|| self.least())
    }

    /// Returns the first stage with the smallest micro-batch and the most checkpointing.
    pub fn least(&self) -> MemoryPlan {
        let recompute = if self.recompute == Recompute::Auto { Recompute::All } else { self.recompute };
        MemoryPlan { zero: self.zeros[0], micro_batch_tokens: self.tokens[self.tokens.len() - 1], recompute }
    }

    /// Returns how many of the first blocks are checkpointed, from the fewest to the most.
    fn levels(&self, blocks: usize, first_trained: usize) -> Vec<Recompute> {
        match self.recompute {
            // Blocks before the first trained one keep nothing anyway; the last one always keeps its activations.
            Recompute::Auto => {
                let some = (first_trained + 1..blocks).map(|n| Recompute::First(n as u32));
                std::iter::once(Recompute::None).chain(some).collect()
            }
            given => vec![given],
        }
    }

    /// Searches for the settings that fit in `limit` bytes on each rank.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn fit(
        &self,
        config: &Config,
        shaped: &Shaped,
        data: &Data,
        Ranks { world, per_host, cpu }: Ranks,
        limit: f64,
    ) -> Result<Fit> {
        let (model, shards) = (&shaped.model, settings::shards(config, world, per_host));
        let teacher = shaped.teacher.as_deref();
        let layout = Layout::new(&shaped.specs, shards);
        let levels = self.levels(model.blocks(), layout.first_trained_block());
        let mut tokens = self.tokens.clone();
        if tokens.len() > 1 {
            let most = largest_rank_tokens(config, data, world)?;
            tokens.retain(|&n| n <= most || n == MIN_TOKENS);
        }
        let needs = |at: usize, level: usize| -> Result<Vec<(Zero, MemoryEstimate)>> {
            let mut config = with_tokens(config, data, tokens[at], tokens.len() > 1);
            config.parallel.recompute = levels[level];
            let setup = |zero| setup(&config, (model, &shaped.specs), zero, cpu);
            let load = load(&config, (model, teacher), &layout, &setup(Zero::ALL[0]), data, world)?;
            Ok(self.zeros.iter().map(|&zero| (zero, memory::estimate(model, &layout, &setup(zero), &load))).collect())
        };
        let fits = |(_, need): &(Zero, MemoryEstimate)| need.total.ceil() <= limit;
        // Find the stage with a micro-batch that keeps every device busy, or smaller; then increase the micro-batch.
        let start = tokens.iter().position(|&n| n <= CPU_MICRO_BATCH_TOKENS).unwrap_or(tokens.len() - 1);
        let most = levels.len() - 1;
        let mut last = Vec::new();
        for at in start..tokens.len() {
            last = needs(at, most)?;
            if !last.iter().any(fits) {
                continue;
            }
            // The fewest checkpointed blocks, by bisection: more of them never need more memory.
            let (mut low, mut high) = (0, most);
            while low < high {
                let middle = (low + high) / 2;
                let found = needs(at, middle)?;
                if found.iter().any(fits) {
                    (high, last) = (middle, found);
                } else {
                    low = middle + 1;
                }
            }
            let Some(place) = last.iter().position(fits) else { continue };
            let (zero, mut need) = (last[place].0, last[place].1.total);
            let mut chosen = at;
            for more in (0..if at == start { start } else { 0 }).rev() {
                let Some(found) = needs(more, low)?.into_iter().nth(place).filter(fits) else { break };
                (chosen, need) = (more, found.1.total);
            }
            let plan = MemoryPlan { zero, micro_batch_tokens: tokens[chosen], recompute: levels[low] };
            return Ok(Fit::Chosen(plan, need));
        }
        Ok(Fit::Nothing(last))
    }
}

/// Returns the configuration with this micro-batch size; with `shortened`, only as many steps as `"auto"` looks at.
pub fn with_tokens(config: &Config, data: &Data, tokens: usize, shortened: bool) -> Config {
    let mut config = config.clone();
    config.train.micro_batch_tokens = MicroBatchTokens::Tokens(tokens);
    if shortened {
        let batch = config.train.global_batch_size;
        let steps = settings::total_steps(&config, data.train.dataset.len().div_ceil(batch) as u64);
        config.train.max_steps = Some(steps.min(SAMPLED_EXAMPLES.div_ceil(batch as u64)));
    }
    config
}

/// Returns the largest useful micro-batch: the maximum tokens of a rank in a step, from the first steps, with a margin.
fn largest_rank_tokens(config: &Config, data: &Data, world: usize) -> Result<usize> {
    let dataset = &data.train.dataset;
    let mut sampler = Sampler::new(config.seed, dataset, config.train.global_batch_size, world, usize::MAX)?;
    let tokens = |i: &u32| dataset.length_in(*i as usize, 0);
    let share = |micros: &Vec<Vec<u32>>| micros.iter().flatten().map(tokens).sum::<usize>();
    let steps = 0..STEPS.min(sampler.steps_per_epoch());
    let most = steps.flat_map(|step| sampler.plan(step).shards.iter().map(share).collect::<Vec<_>>()).max();
    let most = most.unwrap_or(0);
    Ok((most + most / 4).next_power_of_two())
}

fn nothing_fits(
    config: &Config,
    candidates: &Candidates,
    needs: &[(Zero, MemoryEstimate)],
    limit: f64,
    cpu: bool,
) -> Error {
    let parallel = &config.parallel;
    let of = match parallel.zero_stage {
        ZeroStage::Auto => "parallel.zero_stage = \"auto\"",
        ZeroStage::Stage(_) => "parallel.memory_per_rank",
    };
    let list: Vec<String> = needs
        .iter()
        .map(|(zero, need)| format!("stage {}: {}", zero.stage(), human(need.total.ceil() as u64)))
        .collect();
    let mut remedies = vec!["more ranks"];
    if parallel.shard_within == ShardWithin::Host {
        remedies.push("parallel.shard_within = \"world\"");
    }
    if candidates.tokens.len() == 1 {
        remedies.push("a smaller train.micro_batch_tokens");
    }
    if parallel.offload == Offload::None && !cpu {
        remedies.push("parallel.offload = \"optimizer\"");
    }
    if parallel.precision == Precision::Fp32 {
        remedies.push("parallel.precision = \"bf16\"");
    }
    if matches!(parallel.recompute, Recompute::None | Recompute::First(_) | Recompute::KeepEvery(_)) {
        remedies.push("parallel.recompute = \"all\"");
    }
    Error::input(format!(
        "{of}: nothing fits in {} per rank ({}, {} of that activations); to use less memory: {}",
        human(limit as u64),
        list.join(", "),
        human(needs.first().map_or(0, |(_, need)| need.peak[memory::ACTIVATIONS] as u64)),
        remedies.join(", ")
    ))
}

/// Returns the error for a machine whose memory is unknown.
pub fn unknown_memory() -> Error {
    Error::input(
        "\"auto\": the memory of a rank on this machine is unknown: set parallel.memory_per_rank, or both \
         parallel.zero_stage and train.micro_batch_tokens",
    )
}

/// Returns the settings that determine the memory of a rank with this model and its parameters.
pub fn setup<'a>(
    config: &Config,
    (model, specs): (&Model, impl IntoIterator<Item = &'a ParamSpec>),
    zero: Zero,
    cpu: bool,
) -> Setup {
    let (recompute, blocks) = (settings::recompute(config), model.blocks());
    Setup {
        types: Types {
            compute: settings::kind(config.parallel.precision),
            reduce: settings::kind(config.parallel.reduce_dtype),
        },
        zero,
        cpu,
        noise: config.train.neftune_noise_alpha.is_some(),
        frozen_vocabulary: model.has_frozen_vocabulary(specs),
        keeps: (0..blocks).map(|block| recompute.keeps(block, blocks)).collect(),
        saves: config.train.save_strategy != IntervalStrategy::No,
        offloads: config.parallel.offload == Offload::Optimizer,
        optimizer: optimizers::bytes(config),
    }
}

/// Returns the load that the data puts on each of `world` ranks, with a model and its teacher.
///
/// # Errors
/// As [`Sampler::new`].
pub fn load(
    config: &Config,
    (model, teacher): (&Model, Option<&Shaped>),
    layout: &Layout,
    setup: &Setup,
    data: &Data,
    world: usize,
) -> Result<Load> {
    let (dataset, how, tokens) = (&data.train.dataset, setup.how(), settings::micro_batch_tokens(config));
    let sampler = Sampler::new(config.seed, dataset, config.train.global_batch_size, world, tokens)?;
    let blocks = model.blocks();
    let weigh = |x: &Extents| {
        let costs: Vec<_> = (0..blocks).map(|block| model.cost(block, x, &how)).collect();
        let boundaries: Vec<f64> = (0..blocks).map(|block| model.boundary(block, x, &how)).collect();
        memory::activations(&costs, &boundaries, &setup.keeps, layout.first_trained_block())
    };
    let (steps, per_epoch) = (settings::total_steps(config, sampler.steps_per_epoch()), sampler.steps_per_epoch());
    // The first examples of a stream stand for all.
    let steps = if data.stream.is_some() { steps.min(per_epoch) } else { steps };
    let load = Load::of(dataset, &sampler, steps, weigh);
    let how = how.evaluation();
    let teaching = teacher.map(|Shaped { model, specs, .. }| {
        let costs: Vec<_> = (0..model.blocks()).map(|block| model.cost(block, &load.busiest, &how)).collect();
        Teaching::new(&Layout::new(specs, layout.shards()), &costs)
    });
    let load = Load { teacher: teaching, ..load };
    let alone = |x: &Extents| (0..blocks).map(|block| model.cost(block, x, &how).alone).fold(0.0, f64::max);
    Ok(data.evaluations().fold(load, |load, (_, eval)| load.evaluating(&eval.dataset, world, tokens, alone)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optimizer_state_has_to_fit_in_the_host() {
        assert!(host_fits(8e9, Some(9_000_000_000), 4).is_ok() && host_fits(8e9, None, 4).is_ok());
        let text = host_fits(8e9, Some(7_000_000_000), 4).unwrap_err().to_string();
        assert!(text.contains("the 4 ranks of this host needs 8.0 GB, and 7.0 GB"), "{text}");
    }
}
