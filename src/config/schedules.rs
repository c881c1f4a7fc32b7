//! The arguments of learning rate schedules (`train.lr_scheduler_kwargs`), and the checks of a schedule's settings.

use super::arguments::{Known, Takes};
use super::choice::{IntervalStrategy, LrSchedulerType};
use super::keys::{ABOVE_0_BELOW_1, AT_LEAST_1, FROM_0, FROM_0_TO_1, POSITIVE};
use super::problems::Problems;
use super::sections::TrainConfig;

const KWARGS: &str = "train.lr_scheduler_kwargs";
const CURVES: Takes = Takes::Word(&["linear", "cosine", "1-sqrt"]);
const COUNT: Takes = Takes::Integer(("integer >= 0", |n| n >= 0.0));
const COUNT_FROM_1: Takes = Takes::Integer(AT_LEAST_1);
const ABOVE_1: Takes = Takes::Number(("number > 1", |x| x > 1.0));
const ABOVE_0_TO_1: Takes = Takes::Number(("number in (0, 1]", |x| x > 0.0 && x <= 1.0));

impl LrSchedulerType {
    /// Returns the arguments of the schedule, with the names of `transformers.get_scheduler` or of torch's scheduler.
    pub fn arguments(self) -> Known {
        match self {
            LrSchedulerType::Linear | LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => &[],
            LrSchedulerType::Cosine => &[("num_cycles", Takes::Number(POSITIVE))],
            LrSchedulerType::CosineWithRestarts => &[("num_cycles", COUNT_FROM_1)],
            LrSchedulerType::CosineWithMinLr => &[
                ("min_lr", Takes::Number(FROM_0)),
                ("min_lr_rate", Takes::Number(FROM_0_TO_1)),
                ("num_cycles", Takes::Number(POSITIVE)),
            ],
            LrSchedulerType::Polynomial => &[("lr_end", Takes::Number(FROM_0)), ("power", Takes::Number(POSITIVE))],
            LrSchedulerType::InverseSqrt => &[("timescale", COUNT_FROM_1)],
            LrSchedulerType::Exponential => &[("gamma", ABOVE_0_TO_1)],
            LrSchedulerType::WarmupStableDecay => &[
                ("num_decay_steps", COUNT),
                ("num_stable_steps", COUNT),
                ("warmup_type", CURVES),
                ("decay_type", CURVES),
                ("min_lr_ratio", Takes::Number(FROM_0_TO_1)),
                ("num_cycles", Takes::Number(POSITIVE)),
            ],
            LrSchedulerType::SlantedTriangular => &[("cut_frac", Takes::Number(ABOVE_0_BELOW_1)), ("ratio", ABOVE_1)],
            LrSchedulerType::ReduceLrOnPlateau => &[
                ("mode", Takes::Word(&["min", "max"])),
                ("factor", Takes::Number(ABOVE_0_BELOW_1)),
                ("patience", COUNT),
                ("threshold", Takes::Number(FROM_0)),
                ("threshold_mode", Takes::Word(&["rel", "abs"])),
                ("cooldown", COUNT),
                ("min_lr", Takes::Number(FROM_0)),
                ("eps", Takes::Number(FROM_0)),
            ],
        }
    }

    /// Returns what there is instead of warm-up, for a schedule without.
    fn without_warmup(self) -> Option<&'static str> {
        match self {
            LrSchedulerType::Constant => Some("set lr_scheduler_type = \"constant_with_warmup\""),
            LrSchedulerType::SlantedTriangular => Some("its argument cut_frac is the fraction of steps that increase"),
            LrSchedulerType::ReduceLrOnPlateau => Some("remove it"),
            _ => None,
        }
    }
}

/// Notes arguments that the schedule does not know, lacks or contradicts, and settings that it does not use.
pub fn validate(train: &TrainConfig, problems: &mut Problems) {
    let (kind, kwargs) = (train.lr_scheduler_type, &train.lr_scheduler_kwargs);
    if !problems.none_with(&["train.lr_scheduler_type", KWARGS]) {
        return;
    }
    let users = |name: &str| {
        let knows = |kind: &&LrSchedulerType| kind.arguments().iter().any(|(own, _)| *own == name);
        LrSchedulerType::ALL.iter().filter(knows).map(|kind| kind.name()).collect()
    };
    for problem in kwargs.problems(kind.name(), kind.arguments(), users) {
        problems.with(KWARGS, problem);
    }
    if kind == LrSchedulerType::CosineWithMinLr && kwargs.has("min_lr") == kwargs.has("min_lr_rate") {
        let key = if kwargs.has("min_lr") { KWARGS } else { "train.lr_scheduler_type" };
        problems.with(key, "cosine_with_min_lr needs min_lr or min_lr_rate in lr_scheduler_kwargs, and not both");
    }
    if kind == LrSchedulerType::Polynomial
        && kwargs.number("lr_end").unwrap_or(1e-7) >= train.learning_rate
        && problems.none_with(&["train.learning_rate"])
    {
        problems.with(KWARGS, "lr_end (1e-7 by default) must be smaller than train.learning_rate");
    }
    if kind == LrSchedulerType::ReduceLrOnPlateau
        && train.eval_strategy == IntervalStrategy::No
        && problems.none_with(&["train.eval_strategy", "train.eval_steps"])
    {
        let text = "reduce_lr_on_plateau needs evaluations: set train.eval_strategy or train.eval_steps";
        problems.with("train.lr_scheduler_type", text);
    }
    let wanted = [("train.warmup_ratio", train.warmup_ratio > 0.0), ("train.warmup_steps", train.warmup_steps > 0.0)];
    if let Some(instead) = kind.without_warmup() {
        for (key, _) in wanted.into_iter().filter(|(_, set)| *set) {
            problems.with(key, format!("the schedule \"{kind}\" has no warm-up: {instead}"));
        }
    }
}
