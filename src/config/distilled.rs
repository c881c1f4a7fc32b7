//! Checks the settings of a teacher, and of models with fewer layers than their folder's.

use super::choice::TaskKind;
use super::problems::Problems;
use super::sections::{Config, DistillConfig};

/// The tasks that can be learnt from a teacher. The others have logits over a vocabulary, which are never computed as a
/// whole.
const TAUGHT: &[TaskKind] = &[
    TaskKind::SequenceClassification,
    TaskKind::MultiLabel,
    TaskKind::Regression,
    TaskKind::TokenClassification,
    TaskKind::MultipleChoice,
    TaskKind::QuestionAnswering,
];

/// Notes settings that do not fit together. Whether teacher and layers exist is checked with the model.
pub fn distilled(config: &Config, problems: &mut Problems) {
    const TEACHER: &str = "distill.teacher";
    const TEMPERATURE: &str = "distill.temperature";
    layers(config, problems);
    let kind = config.task.kind;
    let known_kind = problems.none_with(&["task.kind"]);
    // A run writes its configuration with all defaults.
    let (set, default) = (&config.distill, DistillConfig::default());
    let has_temperature = set.temperature != default.temperature;
    if config.distill.teacher.is_none() {
        for (key, is_set) in [(TEMPERATURE, has_temperature), ("distill.alpha", set.alpha != default.alpha)] {
            if is_set && problems.none_with(&[TEACHER]) {
                problems.with(key, "has no effect without distill.teacher: set it, or remove this");
            }
        }
    } else if known_kind && !TAUGHT.contains(&kind) {
        let names: Vec<&str> = TAUGHT.iter().map(|kind| kind.name()).collect();
        let why = format!(
            "{kind} predicts tokens of a vocabulary, whose logits are never computed as a whole, so that it cannot be \
             learnt from a teacher; {} can: remove [distill]",
            names.join(", ")
        );
        problems.with(TEACHER, why);
    } else if known_kind && kind == TaskKind::Regression && has_temperature {
        problems.with(TEMPERATURE, "regression has no probabilities, and no temperature: remove it");
    }
}

fn layers(config: &Config, problems: &mut Problems) {
    const KEY: &str = "model.layers";
    let Some(layers) = &config.model.layers else { return };
    if layers.is_empty() {
        problems.with(KEY, "an empty list keeps no layer: remove the key to keep all");
    } else if let Some(twice) = layers.iter().enumerate().find(|(i, layer)| layers[..*i].contains(layer)) {
        problems.with(KEY, format!("the layer {} appears twice", twice.1));
    } else if !layers.is_sorted() {
        problems.with(KEY, "the layers are not in ascending order: the model runs them in the order of its folder");
    } else if config.lora.is_on() {
        let why = "an adapter would be of a model that no folder has: train the smaller model in full first, without \
                   [lora], or remove this";
        problems.with(KEY, why);
    }
}
