//! What a run would need of a rank's memory; the lowest ZeRO stage and the most tokens at a time that fit.

use crate::comm::nccl::ranks_of_a_gpu;
use crate::comm::{Collective, Op};
use crate::config::{Config, IntervalStrategy, MicroBatchTokens, Precision, ZeroStage};
use crate::data::{Extents, Sampler};
use crate::error::{Error, Result};
use crate::ffi::memory::device_total;
use crate::nn::{How, Layout};
use crate::observe::memory::{available_bytes, human};
use crate::parallel::Zero;
use crate::plan::load::Load;
use crate::plan::memory::{self, MemoryEstimate, Setup, Types};
use crate::tasks::Model;
use crate::train::loaded::Shaped;
use crate::train::session::Data;
use crate::train::settings::{self, ON_A_CPU};
use crate::train::staged::Recompute;
use tch::{Cuda, Device};

/// The share of the memory that a plan may fill: the rest is for what is not counted (libraries, fragments, batches).
pub const USABLE: f64 = 0.9;

/// How a run is held: what is sharded, and how many tokens a rank takes through the model at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub zero: Zero,
    pub micro_batch_tokens: usize,
}

/// What `"auto"` tries for `train.micro_batch_tokens`, the most first. No CPU is faster with more than [`ON_A_CPU`].
pub const TOKENS: [usize; 9] = [1 << 17, 1 << 16, 1 << 15, 1 << 14, 1 << 13, ON_A_CPU, 1 << 11, 1 << 10, LEAST_TOKENS];
pub const LEAST_TOKENS: usize = 512;
/// Samples by which `"auto"` judges a micro-batch.
const JUDGED_BY: u64 = 100_000;
/// Steps by which it sees how many tokens a rank has in a step.
const STEPS: u64 = 16;

/// How a run is held: as is set; of `"auto"` the lowest ZeRO stage that fits into every rank's memory, and the most tokens
/// at a time that fit then. `before` is what a run that goes on had. Where both stage and memory are set, or known from
/// the GPU alone, a run with too little memory starts with the fewest tokens.
///
/// # Errors
/// Exit 2 when `zero_stage = "auto"` or `memory_per_rank` is set and nothing fits, with what each stage needs.
pub fn choose(
    config: &Config,
    shaped: &Shaped,
    data: &Data,
    comm: &dyn Collective,
    before: Option<usize>,
) -> Result<Held> {
    let (parallel, cpu) = (&config.parallel, comm.device() == Device::Cpu);
    let open = Open::of(config, before, cpu)?;
    if let Some(held) = open.held() {
        return Ok(held);
    }
    let gpus = Cuda::device_count().max(0) as usize;
    let own = match (parallel.memory_per_rank, comm.device()) {
        (Some(bytes), _) => Some(bytes.0),
        (None, Device::Cpu) => available_bytes().map(|bytes| bytes / comm.local_world() as u64),
        (None, device) => device_total(device).map(|all| all / ranks_of_a_gpu(comm.local_world(), gpus) as u64),
    };
    // The scarcest rank decides; one that cannot tell is an error of all.
    let mut least = [own.map_or(f64::NEG_INFINITY, |bytes| -(bytes as f64))];
    comm.all_reduce_f64(&mut least, Op::Max, "memory of the ranks")?;
    if own.is_none() {
        return Err(untold());
    }
    let limit = -least[0] * if parallel.memory_per_rank.is_some() { 1.0 } else { USABLE };
    let found = open.fit(config, shaped, data, (comm.world(), cpu), limit)?;
    let auto = parallel.zero_stage == ZeroStage::Auto;
    match found {
        Fit::Held(held, need) => {
            if auto {
                let (stage, need, limit) = (held.zero.stage(), human(need as u64), human(limit as u64));
                tracing::info!("zero_stage = \"auto\": {stage} (needs about {need} of {limit} a rank)");
            }
            Ok(held)
        }
        Fit::Nothing(needs) if auto || parallel.memory_per_rank.is_some() => {
            Err(nothing_fits(config, &open, &needs, limit))
        }
        Fit::Nothing(_) => Ok(Held { zero: open.zeros[0], micro_batch_tokens: open.least() }),
    }
}

/// What a run may choose from.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    zeros: Vec<Zero>,
    /// Tokens at a time, the most first.
    tokens: Vec<usize>,
}

/// What fits into memory.
#[derive(Debug)]
pub enum Fit {
    /// With the bytes that it needs.
    Held(Held, f64),
    /// What each stage needs with the fewest tokens.
    Nothing(Vec<(Zero, MemoryEstimate)>),
}

impl Open {
    /// # Errors
    /// Exit 2: a ZeRO stage that there is not.
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
            None if cpu && parallel.memory_per_rank.is_none() => vec![ON_A_CPU],
            None => TOKENS.into_iter().filter(|&n| !cpu || n <= ON_A_CPU).collect(),
        };
        Ok(Open { zeros, tokens })
    }

    /// What there is no choice about.
    pub fn held(&self) -> Option<Held> {
        let one = self.zeros.len() == 1 && self.tokens.len() == 1;
        one.then(|| Held { zero: self.zeros[0], micro_batch_tokens: self.tokens[0] })
    }

    /// The fewest tokens.
    pub fn least(&self) -> usize {
        self.tokens[self.tokens.len() - 1]
    }

    /// The first that fits into `limit` bytes of each of so many ranks, on a CPU or not.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn fit(
        &self,
        config: &Config,
        shaped: &Shaped,
        data: &Data,
        (world, cpu): (usize, bool),
        limit: f64,
    ) -> Result<Fit> {
        let (model, layout) = (&shaped.model, Layout::new(&shaped.specs, world));
        let setup = |zero| setup(config, model.stages(), zero, cpu);
        let mut tokens = self.tokens.clone();
        if tokens.len() > 1 {
            let most = largest_share(config, data, world)?;
            tokens.retain(|&n| n <= most || n == LEAST_TOKENS);
        }
        let needs = |at: usize| -> Result<Vec<(Zero, MemoryEstimate)>> {
            let config = with_tokens(config, data, tokens[at], tokens.len() > 1);
            let load = load(&config, model, &layout, &setup(Zero::ALL[0]), data, world)?;
            Ok(self.zeros.iter().map(|&zero| (zero, memory::estimate(model, &layout, &setup(zero), &load))).collect())
        };
        let fits = |(_, need): &(Zero, MemoryEstimate)| need.total.ceil() <= limit;
        // First the stage, at tokens that every device is busy with, or fewer; then more tokens at this stage.
        let start = tokens.iter().position(|&n| n <= ON_A_CPU).unwrap_or(tokens.len() - 1);
        let mut last = Vec::new();
        for at in start..tokens.len() {
            last = needs(at)?;
            let Some(place) = last.iter().position(fits) else { continue };
            let (zero, mut need) = (last[place].0, last[place].1.total);
            let mut chosen = at;
            for more in (0..if at == start { start } else { 0 }).rev() {
                let Some(found) = needs(more)?.into_iter().nth(place).filter(fits) else { break };
                (chosen, need) = (more, found.1.total);
            }
            return Ok(Fit::Held(Held { zero, micro_batch_tokens: tokens[chosen] }, need));
        }
        Ok(Fit::Nothing(last))
    }
}

/// The configuration with so many tokens at a time; with `shortened`, of as many steps as "auto" judges by.
pub fn with_tokens(config: &Config, data: &Data, tokens: usize, shortened: bool) -> Config {
    let mut config = config.clone();
    config.train.micro_batch_tokens = MicroBatchTokens::Tokens(tokens);
    if shortened {
        let batch = config.train.global_batch_size;
        let steps = settings::total_steps(&config, data.train.dataset.len().div_ceil(batch) as u64);
        config.train.max_steps = Some(steps.min(JUDGED_BY.div_ceil(batch as u64)));
    }
    config
}

/// Tokens that a rank has in a step at most, by the first steps and with a margin: more at a time change nothing.
fn largest_share(config: &Config, data: &Data, world: usize) -> Result<usize> {
    let lengths = data.train.dataset.lengths();
    let mut sampler = Sampler::new(config.seed, lengths.clone(), config.train.global_batch_size, world, usize::MAX)?;
    let tokens = |i: &u32| lengths[*i as usize] as usize;
    let share = |micros: &Vec<Vec<u32>>| micros.iter().flatten().map(tokens).sum::<usize>();
    let steps = 0..STEPS.min(sampler.steps_per_epoch());
    let most = steps.flat_map(|step| sampler.plan(step).shards.iter().map(share).collect::<Vec<_>>()).max();
    let most = most.unwrap_or(0);
    Ok((most + most / 4).next_power_of_two())
}

fn nothing_fits(config: &Config, open: &Open, needs: &[(Zero, MemoryEstimate)], limit: f64) -> Error {
    let parallel = &config.parallel;
    let of = match parallel.zero_stage {
        ZeroStage::Auto => "parallel.zero_stage = \"auto\"",
        ZeroStage::Stage(_) => "parallel.memory_per_rank",
    };
    let list: Vec<String> = needs
        .iter()
        .map(|(zero, need)| format!("stage {}: {}", zero.stage(), human(need.total.ceil() as u64)))
        .collect();
    let mut ways = vec!["more ranks"];
    if open.tokens.len() == 1 {
        ways.push("a smaller train.micro_batch_tokens");
    }
    if parallel.precision == Precision::Fp32 {
        ways.push("parallel.precision = \"bf16\"");
    }
    if settings::recompute(config) == Recompute::None {
        ways.push("parallel.recompute = \"all\"");
    }
    Error::input(format!(
        "{of}: nothing fits into {} a rank ({}, of it {} activations); what takes less: {}",
        human(limit as u64),
        list.join(", "),
        human(needs.first().map_or(0, |(_, need)| need.peak[memory::ACTIVATIONS] as u64)),
        ways.join(", ")
    ))
}

/// The error of a machine that "auto" can learn nothing from.
pub fn untold() -> Error {
    Error::input(
        "\"auto\": this machine does not tell how much memory a rank has: set parallel.memory_per_rank, or both \
         parallel.zero_stage and train.micro_batch_tokens",
    )
}

/// What decides about a rank's memory under this configuration.
pub fn setup(config: &Config, stages: usize, zero: Zero, cpu: bool) -> Setup {
    let recompute = settings::recompute(config);
    Setup {
        types: Types {
            compute: settings::kind(config.parallel.precision),
            reduce: settings::kind(config.parallel.reduce_dtype),
        },
        zero,
        cpu,
        keeps: (0..stages).map(|stage| recompute.keeps(stage, stages)).collect(),
        saves: config.train.save_strategy != IntervalStrategy::No,
    }
}

/// What the data asks of a rank among `world`.
///
/// # Errors
/// As [`Sampler::new`].
pub fn load(config: &Config, model: &Model, layout: &Layout, setup: &Setup, data: &Data, world: usize) -> Result<Load> {
    let (dataset, how, tokens) = (&data.train.dataset, setup.how(), settings::micro_batch_tokens(config));
    let sampler = Sampler::new(config.seed, dataset.lengths(), config.train.global_batch_size, world, tokens)?;
    let stages = model.stages();
    let weigh = |x: &Extents| {
        let costs: Vec<_> = (0..stages).map(|stage| model.cost(stage, x, &how)).collect();
        let borders: Vec<f64> = (0..stages).map(|stage| model.border(stage, x, &how)).collect();
        memory::activations(&costs, &borders, &setup.keeps, layout.first_trained_stage())
    };
    let steps = settings::total_steps(config, sampler.steps_per_epoch());
    let load = Load::of(dataset, &sampler, steps, weigh);
    let how = How { train: false, ..how };
    let alone = |x: &Extents| (0..stages).map(|stage| model.cost(stage, x, &how).alone).fold(0.0, f64::max);
    let Some(eval) = &data.eval else { return Ok(load) };
    Ok(load.evaluating(&eval.dataset, world, tokens, alone))
}
