//! Checks of `[augment]` against the task.

use super::choice::TaskKind;
use super::problems::Problems;
use super::sections::{AugmentConfig, Config};

/// The tasks whose texts may change without a change of their labels.
const KINDS: [TaskKind; 4] =
    [TaskKind::SequenceClassification, TaskKind::MultiLabel, TaskKind::Regression, TaskKind::TokenClassification];

/// Notes settings of augmentation that the task cannot have, or that have no effect.
pub(super) fn validate(config: &Config, problems: &mut Problems) {
    const SYNONYMS: &str = "augment.synonyms";
    let (augment, kind) = (&config.augment, config.task.kind);
    let AugmentConfig { replace, insert, .. } = *augment;
    if problems.none_with(&["task.kind"]) {
        for (key, _) in augment.rates().into_iter().filter(|(_, rate)| *rate > 0.0 && !KINDS.contains(&kind)) {
            let names = KINDS.map(TaskKind::name).join(", ");
            problems.with(&format!("augment.{key}"), format!("{kind} does not use this, only {names}: remove it"));
        }
        if kind == TaskKind::TokenClassification {
            if insert > 0.0 {
                problems.with("augment.insert", format!("an inserted word has no tag in {kind}: remove it"));
            }
            if replace > 0.0 && augment.synonyms.is_none() && problems.none_with(&[SYNONYMS]) {
                let why =
                    "a random word does not have the tag of the word it replaces: set augment.synonyms, or remove it";
                problems.with("augment.replace", why);
            }
        }
    }
    let rates = ["augment.replace", "augment.insert"];
    if augment.synonyms.is_some() && replace == 0.0 && insert == 0.0 && problems.none_with(&rates) {
        problems.with(SYNONYMS, "has no effect without augment.replace or augment.insert: set one, or remove it");
    }
}
