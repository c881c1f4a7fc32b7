//! Converts the configuration to the settings of the training loop, and checks what a resumed run changes.

use crate::checkpoint::state::LossScale;
use crate::comm::Collective;
use crate::config::{self, Config, IntervalStrategy, Offload, OnNonFinite, Precision, ShardWithin};
use crate::error::{Error, Result};
use crate::models::hf_names::HfNames;
use crate::nn::param_builder::ParamSpec;
use crate::optim::{LossScaler, Schedule};
use crate::parallel::{Groups, Masters};
use crate::plan::storage::{self, Saving, Storage};
use crate::train::blockwise::Recompute;
use crate::train::optimizers;
use std::sync::Arc;
use tch::{Device, Kind};

/// Value of `micro_batch_tokens = "auto"` on a CPU; larger micro-batches are no faster there.
pub const CPU_MICRO_BATCH_TOKENS: usize = 4096;

/// Returns the dtype of a precision.
pub fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
    }
}

/// Settings of an optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    pub seed: u64,
    pub schedule: Schedule,
    /// Of parameters with weight decay, as the penalties.
    pub weight_decay: f64,
    /// Factors of the penalties: of the weights' signs, and of the weights.
    pub penalties: [f64; 2],
    /// Maximum gradient norm for clipping; 0 disables clipping.
    pub max_grad_norm: f64,
    pub recompute: Recompute,
    /// Whether a step with a NaN or Inf loss or gradient norm is skipped instead of ending the run.
    pub skips_non_finite: bool,
}

/// Returns the settings of a step.
pub fn step(config: &Config, schedule: Schedule) -> StepConfig {
    StepConfig {
        seed: config.seed,
        schedule,
        weight_decay: config.train.weight_decay,
        penalties: [config.train.l1, config.train.l2],
        max_grad_norm: config.train.max_grad_norm,
        recompute: recompute(config),
        skips_non_finite: config.train.on_non_finite == OnNonFinite::Skip,
    }
}

/// Whether fp32 matmuls use TF32: as configured, by default on a GPU.
pub fn tf32(config: &Config, device: Device) -> bool {
    let parallel = &config.parallel;
    parallel.tf32.unwrap_or(parallel.precision == Precision::Fp32 && device != Device::Cpu)
}

/// Returns the micro-batch tokens as configured; for `"auto"` the value for a CPU, unless it was resolved before.
pub fn micro_batch_tokens(config: &Config) -> usize {
    config.train.micro_batch_tokens.given().unwrap_or(CPU_MICRO_BATCH_TOKENS)
}

/// Returns the groups of ranks among which units are sharded. All ranks call it.
///
/// # Errors
/// As [`Groups::within_hosts`].
pub fn groups(config: &Config, all: Arc<dyn Collective>) -> Result<Groups> {
    match config.parallel.shard_within {
        ShardWithin::World => Ok(all.into()),
        ShardWithin::Host => Groups::within_hosts(all),
    }
}

/// Returns where the values are that the optimizer updates. On a CPU the device's memory is the host's.
pub fn masters(config: &Config, device: Device) -> Masters {
    match config.parallel.offload {
        Offload::Optimizer if device != Device::Cpu => Masters::Host,
        _ => Masters::Device,
    }
}

/// Returns the number of shards of a unit on `world` ranks, of which `per_host` are on each host.
pub fn shards(config: &Config, world: usize, per_host: usize) -> usize {
    match config.parallel.shard_within {
        ShardWithin::World => world,
        ShardWithin::Host => world.min(per_host),
    }
}

/// Returns the loss scaler for fp16, with the state of a checkpoint or the initial scale.
pub fn scaler(config: &Config, before: Option<&LossScale>) -> Option<LossScaler> {
    let (init, window) = (config.parallel.loss_scale_init?, config.parallel.loss_scale_window?);
    let (scale, good_steps) = before.map_or((init, 0), |before| (before.scale, before.good_steps));
    Some(LossScaler::new(scale, good_steps, window))
}

/// Returns the loss scaler's state for a checkpoint.
pub fn loss_scale(scaler: &LossScaler) -> LossScale {
    LossScale { scale: scaler.scale(), good_steps: scaler.good_steps() }
}

/// Returns which blocks keep their activations, as configured; for `"auto"` all, unless it was resolved before.
pub fn recompute(config: &Config) -> Recompute {
    checkpointing(config.parallel.recompute)
}

/// Returns which blocks keep their activations with this setting.
pub fn checkpointing(setting: config::Recompute) -> Recompute {
    match setting {
        config::Recompute::None | config::Recompute::Auto => Recompute::None,
        config::Recompute::First(n) => Recompute::First(n as usize),
        config::Recompute::All => Recompute::All,
        config::Recompute::KeepEvery(n) => Recompute::Every(n as usize),
    }
}

/// Returns the number of steps of a run: `max_steps`, or that of its epochs.
pub fn total_steps(config: &Config, steps_per_epoch: u64) -> u64 {
    let epochs = (config.train.num_train_epochs * steps_per_epoch as f64).ceil() as u64;
    config.train.max_steps.unwrap_or(epochs).max(1)
}

/// Settings that determine the order of the data by themselves.
const ORDER: &[&str] =
    &["seed", "train.global_batch_size", "data.sampling", "data.streaming", "data.shuffle_buffer_size"];

/// Settings of the task that do not affect examples.
const WITHOUT_EXAMPLES: &[&str] =
    &["task.n_best_size", "task.max_answer_length", "task.null_score_diff_threshold", "task.predict_with_generate"];

/// Returns the settings that differ from the checkpoint's, one per line. Refuses those that change the order of the
/// data unless `allowed`: the run would see samples twice or never. `same_data` says whether the tokenized training
/// data is the same.
///
/// # Errors
/// Exit 2, with the conflicting settings and the remedies.
pub fn compare(now: &Config, before: &Config, same_data: bool, allowed: bool) -> Result<Vec<String>> {
    let differences = now.differences(before);
    let line = |(key, now, before): &(String, String, String)| format!("{key} = {now} (was {before})");
    let of_data = |key: &str| {
        let of_task = key.starts_with("task.") && !WITHOUT_EXAMPLES.contains(&key);
        of_task || key.starts_with("data.") || key.starts_with("augment.") || key == "model.path"
    };
    // The synonyms' content is part of the data.
    let same_mixture = now.data.source_weights() == before.data.source_weights();
    let of_order = |key: &str| {
        let of_mixture = key == "data.sources" && !same_mixture;
        ORDER.contains(&key) || of_mixture || (key.starts_with("augment.") && key != "augment.synonyms")
    };
    let matters = |key: &str| of_order(key) || (!same_data && of_data(key));
    let mut refused: Vec<String> = differences.iter().filter(|(key, ..)| matters(key)).map(line).collect();
    if !same_data && !differences.iter().any(|(key, ..)| of_data(key)) {
        let synonyms = now.augment.synonyms.as_ref().map(|path| format!(", of {}", path.display()));
        let synonyms = synonyms.unwrap_or_default();
        refused.push(format!("the content of {}{synonyms}, or the tokenizer, has changed", now.data.train));
    }
    if !refused.is_empty() && !allowed {
        return Err(Error::input(format!(
            "this checkpoint cannot be resumed, because the order of the data would change:\n  {}\n\
             restore these settings, start a new run in another output_dir, or pass --allow-new-data-order",
            refused.join("\n  ")
        )));
    }
    let quiet = ["output_dir", "overwrite_output_dir"];
    Ok(differences.iter().filter(|(key, ..)| !quiet.contains(&key.as_str())).map(line).collect())
}

/// Returns the disk space for a run of `steps` steps with `per_epoch` steps per epoch.
pub fn storage(config: &Config, specs: &[ParamSpec], names: &HfNames, (steps, per_epoch): (u64, u64)) -> Storage {
    let train = &config.train;
    let every = |strategy, of_steps| match strategy {
        IntervalStrategy::No => None,
        IntervalStrategy::Steps => Some(of_steps),
        IntervalStrategy::Epoch => Some(per_epoch),
    };
    let (limit, keeps_best) = (train.save_total_limit, train.load_best_model_at_end);
    let evaluated = every(train.eval_strategy, train.eval_steps.unwrap_or(u64::MAX)).filter(|_| keeps_best);
    let saves = storage::written([every(train.save_strategy, train.save_steps), evaluated], steps);
    let trained: i64 = specs.iter().filter(|spec| spec.trainable).map(ParamSpec::numel).sum();
    let average = if train.ema_decay.is_some() { 4 * trained as u64 } else { 0 };
    let state = average + optimizers::rule(config).bytes_of(&optimizers::all_pieces(specs, names));
    Storage::of(specs, kind(config.parallel.precision), state, Saving { saves, limit, keeps_best })
}
