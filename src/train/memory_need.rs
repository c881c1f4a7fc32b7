//! What a run would need of a rank's memory, and the lowest ZeRO stage that fits.

use crate::comm::{Collective, Op};
use crate::config::{Config, Precision, ZeroStage};
use crate::error::{Error, Result};
use crate::ffi::memory::device_total;
use crate::nn::Layout;
use crate::nn::layout::Content;
use crate::observe::memory::{available_bytes, human};
use crate::parallel::Zero;
use crate::train::loaded::{Shaped, UNLIMITED};
use crate::train::reading;
use crate::train::settings;
use crate::train::staged::Recompute;
use tch::{Device, Kind};

/// The share of the memory that a plan may fill: the rest is for what is not counted (libraries, fragments, batches).
const USABLE: f64 = 0.9;

/// Bytes of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Weights, gradients and optimizer state that stay from step to step.
    pub persistent: u64,
    /// Whole weights and gradients that live while a stage runs.
    pub passing: u64,
    /// From forward to backward: an estimate.
    pub activations: u64,
}

impl Need {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.persistent + self.passing + self.activations
    }
}

/// The types of a run.
#[derive(Debug, Clone, Copy)]
pub struct Types {
    pub compute: Kind,
    pub reduce: Kind,
}

/// What weights, gradients and AdamW's state take (arXiv 1910.02054, section 5).
pub fn need(layout: &Layout, types: Types, zero: Zero, activations: u64) -> Need {
    let (weight, grad) = (types.compute.elt_size_in_bytes() as u64, types.reduce.elt_size_in_bytes() as u64);
    let state = if types.compute == Kind::Float { 8 } else { 12 };
    let mut persistent = 0;
    for (index, unit) in layout.units().iter().enumerate() {
        let (whole, shard) = (layout.padded(index) as u64, unit.shard as u64);
        let kept = |sharded: bool| if sharded { shard } else { whole };
        persistent += weight * kept(zero.shards_weights());
        if unit.is_trained() {
            persistent += grad * kept(zero.shards_gradients()) + state * kept(zero.shards_state());
        }
    }
    // A table's gradient is never whole, and what is frozen has none.
    let dense = |unit: usize| layout.units()[unit].content == Content::Dense;
    let two_of = |counts: &dyn Fn(usize) -> bool| -> [u64; 2] {
        let of = |stage| layout.of_stage(stage).filter(|&u| counts(u)).map(|u| layout.padded(u) as u64).sum::<u64>();
        let mut sizes: Vec<u64> = (0..layout.stages()).map(of).collect();
        sizes.sort_unstable();
        std::array::from_fn(|i| sizes.iter().rev().nth(i).copied().unwrap_or_default())
    };
    let weights = if zero.shards_weights() { weight * two_of(&|_| true).iter().sum::<u64>() } else { 0 };
    let [largest, second] = two_of(&dense);
    let gradients = match zero.shards_gradients() {
        true => grad * (largest + second),
        false if types.compute != types.reduce => weight * largest,
        false => 0,
    };
    let passing = weights + gradients;
    Need { persistent, passing, activations }
}

/// The ZeRO stage of a run: the one that is set, or the lowest that fits into every rank's memory.
///
/// # Errors
/// Exit 2 when not even stage 3 fits, with what each stage needs.
pub fn choose(config: &Config, shaped: &Shaped, comm: &dyn Collective) -> Result<Zero> {
    let parallel = &config.parallel;
    if let ZeroStage::Stage(stage) = parallel.zero_stage {
        return Zero::new(stage).ok_or_else(|| Error::input(format!("parallel.zero_stage = {stage}: 0 to 3")));
    }
    let own = match (parallel.memory_per_rank, comm.device()) {
        (Some(bytes), _) => Some(bytes.0),
        (None, Device::Cpu) => available_bytes().map(|bytes| bytes / comm.local_world() as u64),
        (None, device) => device_total(device),
    };
    // The scarcest rank decides; one that cannot tell is an error of all.
    let mut least = [own.map_or(f64::NEG_INFINITY, |bytes| -(bytes as f64))];
    comm.all_reduce_f64(&mut least, Op::Max, "memory of the ranks")?;
    if own.is_none() {
        return Err(Error::input(
            "parallel.zero_stage = \"auto\": this machine does not tell how much memory a rank has: \
             set parallel.memory_per_rank, or the stage",
        ));
    }
    let limit = (-least[0] * if parallel.memory_per_rank.is_some() { 1.0 } else { USABLE }) as u64;
    let layout = Layout::new(&shaped.specs, comm.world());
    let types = Types { compute: settings::kind(parallel.precision), reduce: settings::kind(parallel.reduce_dtype) };
    let activations = activations(config, shaped, types.compute.elt_size_in_bytes() as u64);
    let needs = Zero::ALL.map(|zero| (zero, need(&layout, types, zero, activations)));
    if let Some((zero, need)) = needs.iter().find(|(_, need)| need.total() <= limit) {
        tracing::info!(
            "zero_stage = \"auto\": {} (needs about {} of {} a rank)",
            zero.stage(),
            human(need.total()),
            human(limit)
        );
        return Ok(*zero);
    }
    let list: Vec<String> =
        needs.iter().map(|(zero, need)| format!("stage {}: {}", zero.stage(), human(need.total()))).collect();
    let mut ways = vec!["more ranks", "a smaller train.micro_batch_tokens"];
    if parallel.precision == Precision::Fp32 {
        ways.push("parallel.precision = \"bf16\"");
    }
    if settings::recompute(config) == Recompute::None {
        ways.push("parallel.recompute = \"all\"");
    }
    Err(Error::input(format!(
        "parallel.zero_stage = \"auto\": nothing fits into {} a rank ({}, of it {} activations); what takes less: {}",
        human(limit),
        list.join(", "),
        human(activations),
        ways.join(", ")
    )))
}

/// Activations at a full micro-batch of the longest sequences.
fn activations(config: &Config, shaped: &Shaped, element: u64) -> u64 {
    let backbone = &shaped.model.backbone;
    let usual = reading::usual_length(config.task.kind);
    let limit = [usual, backbone.max_length()].into_iter().flatten().min();
    let longest = config.data.max_length.or(limit).unwrap_or(UNLIMITED) as u64;
    let tokens = (config.train.micro_batch_tokens as u64).max(longest);
    let border = element * tokens * backbone.head_input().width as u64;
    let stages = backbone.stages();
    let each: Vec<u64> = (0..stages).map(|stage| element * backbone.activations(stage, tokens, longest)).collect();
    let recompute = settings::recompute(config);
    let kept: u64 = (0..stages).map(|s| if recompute.keeps(s, stages + 1) { each[s] } else { border }).sum();
    // A stage that runs again has its own for a while; backward itself holds about as much as a stage keeps.
    let again = if recompute == Recompute::None { 1 } else { 2 };
    kept + again * each.iter().max().copied().unwrap_or(0)
}
