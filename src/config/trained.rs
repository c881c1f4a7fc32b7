//! Checks the settings that choose which weights are trained, and how fast.

use super::problems::Problems;
use super::sections::{Config, GroupConfig, StageConfig, Unfreeze};
use super::table_keys::table_name;

/// Notes settings that select nothing, or say the same twice. Whether the model has such weights is checked with it.
pub fn trained(config: &Config, problems: &mut Problems) {
    patterns("model.freeze", &config.model.freeze, problems);
    if let Some(train) = &config.model.train {
        if train.is_empty() {
            problems.with("model.train", "an empty list trains nothing: remove the key to train all weights");
        }
        patterns("model.train", train, problems);
    }
    for (group, n) in config.train.groups.iter().zip(1..) {
        let GroupConfig { params, learning_rate, weight_decay } = group;
        let name = table_name("train.groups", n);
        if params.is_empty() {
            problems.with(&name, "params is an empty list: name the weights of the group");
        }
        if learning_rate.is_none() && weight_decay.is_none() {
            problems.with(&name, "has neither learning_rate nor weight_decay: set one of them, or remove the group");
        }
        patterns(&name, params, problems);
    }
    if let Some(Unfreeze::Stages(stages)) = &config.train.unfreeze {
        if stages.is_empty() {
            problems.with("train.unfreeze", "an empty list unfreezes nothing: remove the key");
        }
        for (StageConfig { params, at_step, at_epoch }, n) in stages.iter().zip(1..) {
            let name = table_name("train.unfreeze", n);
            if params.is_empty() {
                problems.with(&name, "params is an empty list: name the weights to unfreeze");
            }
            if at_step.is_some() == at_epoch.is_some() {
                problems.with(&name, "set one of at_step and at_epoch, which say when the weights are first trained");
            }
            patterns(&name, params, problems);
        }
    }
}

fn patterns(key: &str, patterns: &[String], problems: &mut Problems) {
    if patterns.iter().any(String::is_empty) {
        problems.with(key, "a pattern is an empty string, which matches no tensor: remove it");
    } else if let Some((_, twice)) = patterns.iter().enumerate().find(|(i, name)| patterns[..*i].contains(name)) {
        problems.with(key, format!("the pattern {twice:?} appears twice"));
    }
}
