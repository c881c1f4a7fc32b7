//! What a run would need of a rank's memory, and the lowest ZeRO stage that fits.

use crate::comm::{Collective, Op};
use crate::config::{Config, IntervalStrategy, Precision, ZeroStage};
use crate::data::{Extents, Sampler};
use crate::error::{Error, Result};
use crate::ffi::memory::device_total;
use crate::nn::{How, Layout};
use crate::observe::memory::{available_bytes, human};
use crate::parallel::Zero;
use crate::plan::load::Load;
use crate::plan::memory::{self, Need, Setup, Types};
use crate::tasks::Model;
use crate::train::loaded::Shaped;
use crate::train::session::Data;
use crate::train::settings;
use crate::train::staged::Recompute;
use tch::Device;

/// The share of the memory that a plan may fill: the rest is for what is not counted (libraries, fragments, batches).
pub const USABLE: f64 = 0.9;

/// The ZeRO stage of a run: the one that is set, or the lowest that fits into every rank's memory.
///
/// # Errors
/// Exit 2 when not even stage 3 fits, with what each stage needs.
pub fn choose(config: &Config, shaped: &Shaped, data: &Data, comm: &dyn Collective) -> Result<Zero> {
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
        return Err(untold());
    }
    let limit = (-least[0] * if parallel.memory_per_rank.is_some() { 1.0 } else { USABLE }) as u64;
    let (model, cpu) = (&shaped.model, comm.device() == Device::Cpu);
    let layout = Layout::new(&shaped.specs, comm.world());
    let setup = |zero| setup(config, model.stages(), zero, cpu);
    let load = load(config, model, &layout, &setup(Zero::ALL[0]), data, comm.world())?;
    let needs = Zero::ALL.map(|zero| (zero, memory::need(model, &layout, &setup(zero), &load)));
    let bytes = |need: &Need| need.total.ceil() as u64;
    let activations = needs[0].1.peak[memory::ACTIVATIONS] as u64;
    if let Some((zero, need)) = needs.iter().find(|(_, need)| bytes(need) <= limit) {
        tracing::info!(
            "zero_stage = \"auto\": {} (needs about {} of {} a rank)",
            zero.stage(),
            human(bytes(need)),
            human(limit)
        );
        return Ok(*zero);
    }
    let list: Vec<String> =
        needs.iter().map(|(zero, need)| format!("stage {}: {}", zero.stage(), human(bytes(need)))).collect();
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

/// The error of a machine that "auto" can learn nothing from.
pub fn untold() -> Error {
    Error::input(
        "parallel.zero_stage = \"auto\": this machine does not tell how much memory a rank has: \
         set parallel.memory_per_rank, or the stage",
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
    let (train, dataset, how) = (&config.train, &data.train.dataset, setup.how());
    let sampler =
        Sampler::new(config.seed, dataset.lengths(), train.global_batch_size, world, train.micro_batch_tokens)?;
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
    Ok(load.evaluating(&eval.dataset, world, train.micro_batch_tokens, alone))
}
