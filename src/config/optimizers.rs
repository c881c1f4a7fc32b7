//! The arguments of optimizers (`train.optim_args`), and the checks of an optimizer's settings.

use super::arguments::{Known, Takes};
use super::choice::Optim;
use super::keys::{AT_LEAST_1, FROM_0, FROM_0_BELOW_1};
use super::problems::Problems;
use super::sections::TrainConfig;

const ARGS: &str = "train.optim_args";
const FRACTION: Takes = Takes::Number(FROM_0_BELOW_1);

impl Optim {
    /// Returns the arguments of the optimizer, with torch's names.
    pub fn arguments(self) -> Known {
        match self {
            Optim::AdamW | Optim::Adam | Optim::Adafactor | Optim::Lion => &[],
            Optim::Sgd => &[("momentum", FRACTION), ("nesterov", Takes::Flag)],
            Optim::Adagrad => &[("lr_decay", Takes::Number(FROM_0)), ("eps", Takes::Number(FROM_0))],
            Optim::RmsProp => &[
                ("alpha", FRACTION),
                ("eps", Takes::Number(FROM_0)),
                ("momentum", FRACTION),
                ("centered", Takes::Flag),
            ],
            Optim::Muon => &[
                ("momentum", FRACTION),
                ("nesterov", Takes::Flag),
                ("ns_steps", Takes::Integer(AT_LEAST_1)),
                ("adjust_lr_fn", Takes::Word(&["original", "match_rms_adamw"])),
            ],
        }
    }

    /// Returns whether the optimizer uses a setting of AdamW.
    fn uses(self, key: &str) -> bool {
        match self {
            Optim::AdamW | Optim::Adam | Optim::Muon => true,
            Optim::Lion => key != "train.adam_epsilon",
            Optim::Sgd | Optim::Adagrad | Optim::RmsProp | Optim::Adafactor => false,
        }
    }
}

/// Notes arguments that the optimizer does not know or that contradict each other, and settings that it does not use.
pub fn validate(train: &TrainConfig, problems: &mut Problems) {
    let (optim, args) = (train.optim, &train.optim_args);
    if !problems.none_with(&["train.optim", ARGS]) {
        return;
    }
    let users = |name: &str| {
        let knows = |optim: &&Optim| optim.arguments().iter().any(|(own, _)| *own == name);
        Optim::ALL.iter().filter(knows).map(|optim| optim.name()).collect()
    };
    for problem in args.problems(optim.name(), optim.arguments(), users) {
        problems.with(ARGS, problem);
    }
    if optim == Optim::Sgd && args.flag("nesterov") == Some(true) && args.number("momentum").unwrap_or(0.0) == 0.0 {
        problems.with(ARGS, "nesterov needs momentum: add momentum = 0.9, or remove it");
    }
    let usual = TrainConfig::default();
    let adam = [
        ("train.adam_beta1", train.adam_beta1 != usual.adam_beta1),
        ("train.adam_beta2", train.adam_beta2 != usual.adam_beta2),
        ("train.adam_epsilon", train.adam_epsilon != usual.adam_epsilon),
    ];
    for (key, _) in adam.into_iter().filter(|(key, set)| *set && !optim.uses(key)) {
        let has = optim.arguments().iter().any(|(name, _)| *name == "eps") && key == "train.adam_epsilon";
        let instead = if has { "set eps in train.optim_args" } else { "remove it" };
        problems.with(key, format!("{optim} does not use it: {instead}"));
    }
}
