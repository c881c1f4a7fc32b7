//! Checks the settings that choose which weights are trained, and how fast.

use super::problems::Problems;
use super::sections::{Config, GroupConfig};
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
}

fn patterns(key: &str, patterns: &[String], problems: &mut Problems) {
    if patterns.iter().any(String::is_empty) {
        problems.with(key, "a pattern is an empty string, which matches no tensor: remove it");
    } else if let Some((_, twice)) = patterns.iter().enumerate().find(|(i, name)| patterns[..*i].contains(name)) {
        problems.with(key, format!("the pattern {twice:?} appears twice"));
    }
}
