//! From the configuration to what the loop needs, and what a resumed run may change of it.

use crate::checkpoint::state::LossScale;
use crate::config::{self, Config, IntervalStrategy, LrSchedulerType, OnNonFinite, Precision};
use crate::error::{Error, Result};
use crate::nn::param_builder::ParamSpec;
use crate::optim::schedule::Shape;
use crate::optim::{LossScaler, Schedule};
use crate::plan::storage::{self, Saving, Storage};
use crate::train::staged::Recompute;
use tch::{Device, Kind};

/// Tokens at a time of `"auto"` on a CPU, which more do not make faster.
pub const ON_A_CPU: usize = 4096;

/// The type of a number format.
pub fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
    }
}

/// What a step needs to know besides its input.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    pub seed: u64,
    pub schedule: Schedule,
    /// The norm that gradients are clipped to; 0 leaves them alone.
    pub max_grad_norm: f64,
    pub recompute: Recompute,
    /// Whether a step whose loss or gradient norm is not finite is left out rather than the end.
    pub skips_non_finite: bool,
}

/// What each step needs to know.
pub fn step(config: &Config, schedule: Schedule) -> StepConfig {
    StepConfig {
        seed: config.seed,
        schedule,
        max_grad_norm: config.train.max_grad_norm,
        recompute: recompute(config),
        skips_non_finite: config.train.on_non_finite == OnNonFinite::Skip,
    }
}

/// Whether a run's products of fp32 are done in TF32: as is set, otherwise on a GPU.
pub fn tf32(config: &Config, device: Device) -> bool {
    let parallel = &config.parallel;
    parallel.tf32.unwrap_or(parallel.precision == Precision::Fp32 && device != Device::Cpu)
}

/// Tokens that a rank takes through the model at a time: as is set; `"auto"` as on a CPU, where nothing has chosen.
pub fn micro_batch_tokens(config: &Config) -> usize {
    config.train.micro_batch_tokens.given().unwrap_or(ON_A_CPU)
}

/// fp16's loss scale, as a checkpoint left it or at its first value.
pub fn scaler(config: &Config, before: Option<&LossScale>) -> Option<LossScaler> {
    let (init, window) = (config.parallel.loss_scale_init?, config.parallel.loss_scale_window?);
    let (scale, good_steps) = before.map_or((init, 0), |before| (before.scale, before.good_steps));
    Some(LossScaler::new(scale, good_steps, window))
}

/// What a checkpoint keeps of the loss scale.
pub fn loss_scale(scaler: &LossScaler) -> LossScale {
    LossScale { scale: scaler.scale(), good_steps: scaler.good_steps() }
}

/// Which stages keep their activations.
pub fn recompute(config: &Config) -> Recompute {
    match config.parallel.recompute {
        config::Recompute::None => Recompute::None,
        config::Recompute::All => Recompute::All,
        config::Recompute::KeepEvery(n) => Recompute::Every(n as usize),
    }
}

/// The steps of a run: as many as are set, or those of its epochs.
pub fn total_steps(config: &Config, steps_per_epoch: u64) -> u64 {
    let epochs = (config.train.num_train_epochs * steps_per_epoch as f64).ceil() as u64;
    config.train.max_steps.unwrap_or(epochs).max(1)
}

/// The learning-rate schedule of a run of `total_steps`.
pub fn schedule(config: &Config, total_steps: u64) -> Schedule {
    let train = &config.train;
    let ratio = (train.warmup_ratio * total_steps as f64).ceil() as u64;
    let warmup = if train.warmup_steps > 0 { train.warmup_steps } else { ratio };
    let (shape, warmup_steps) = match train.lr_scheduler_type {
        LrSchedulerType::Linear => (Shape::Linear, warmup),
        LrSchedulerType::Cosine => (Shape::Cosine, warmup),
        LrSchedulerType::Constant => (Shape::Constant, 0),
        LrSchedulerType::ConstantWithWarmup => (Shape::Constant, warmup),
    };
    Schedule { shape, learning_rate: train.learning_rate, warmup_steps, total_steps }
}

/// Settings that the order of data follows from by themselves.
const ORDER: &[&str] = &["seed", "train.global_batch_size"];

/// Settings of the task that examples do not depend on.
const WITHOUT_EXAMPLES: &[&str] =
    &["task.n_best_size", "task.max_answer_length", "task.null_score_diff_threshold", "task.predict_with_generate"];

/// Lists the settings that differ from the checkpoint's, one line each, and refuses those that change the data order
/// unless `allowed`: with another one the run would see samples twice or never. `same_data` tells whether the tokenised
/// training data is what it was, under whatever name.
///
/// # Errors
/// Exit 2, with the settings that stand in the way and the ways out.
pub fn compare(now: &Config, before: &Config, same_data: bool, allowed: bool) -> Result<Vec<String>> {
    let differences = now.differences(before);
    let line = |(key, now, before): &(String, String, String)| format!("{key} = {now} (was {before})");
    let of_data = |key: &str| {
        let of_task = key.starts_with("task.") && !WITHOUT_EXAMPLES.contains(&key);
        of_task || key.starts_with("data.") || key == "model.path"
    };
    let matters = |key: &str| ORDER.contains(&key) || (!same_data && of_data(key));
    let mut refused: Vec<String> = differences.iter().filter(|(key, ..)| matters(key)).map(line).collect();
    if !same_data && !differences.iter().any(|(key, ..)| of_data(key)) {
        refused.push(format!("the content of {}, or the tokenizer, is not what it was", now.data.train.display()));
    }
    if !refused.is_empty() && !allowed {
        return Err(Error::input(format!(
            "this checkpoint cannot be resumed: the order of data would change:\n  {}\n\
             set them back, start anew in another output_dir, or insist with --allow-new-data-order",
            refused.join("\n  ")
        )));
    }
    let quiet = ["output_dir", "overwrite_output_dir"];
    Ok(differences.iter().filter(|(key, ..)| !quiet.contains(&key.as_str())).map(line).collect())
}

/// What a run of so many steps, with so many in an epoch, writes.
pub fn storage(config: &Config, specs: &[ParamSpec], (steps, per_epoch): (u64, u64)) -> Storage {
    let train = &config.train;
    let every = |strategy, of_steps| match strategy {
        IntervalStrategy::No => None,
        IntervalStrategy::Steps => Some(of_steps),
        IntervalStrategy::Epoch => Some(per_epoch),
    };
    let (limit, keeps_best) = (train.save_total_limit, train.load_best_model_at_end);
    let evaluated = every(train.eval_strategy, train.eval_steps.unwrap_or(u64::MAX)).filter(|_| keeps_best);
    let saves = storage::written([every(train.save_strategy, train.save_steps), evaluated], steps);
    Storage::of(specs, kind(config.parallel.precision), Saving { saves, limit, keeps_best })
}
