//! How texts are generated while a run evaluates.

use super::mixed::EarlyStopping;
use super::{Config, TaskKind};
use serde::{Deserialize, Serialize};

/// `[generation]`: how texts are generated with `task.predict_with_generate`. What is not set is as the model folder's
/// `generation_config.json` says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// The most tokens of a text.
    pub max_new_tokens: Option<usize>,
    /// The fewest tokens of a text.
    pub min_new_tokens: Option<usize>,
    /// Whether tokens are drawn, not the likeliest taken.
    pub do_sample: Option<bool>,
    /// Above 0: scores are divided by it.
    pub temperature: Option<f64>,
    /// The likeliest tokens that are drawn from; all with 0.
    pub top_k: Option<usize>,
    /// In [0, 1]: the share of probability that the tokens that are drawn from have.
    pub top_p: Option<f64>,
    /// Above 0: above 1, tokens that are there already become less likely.
    pub repetition_penalty: Option<f64>,
    /// Texts that beam search keeps for each source; 1 for no beam search.
    pub num_beams: Option<usize>,
    /// The power of the length that a text's log-probability is divided by.
    pub length_penalty: Option<f64>,
    /// When beam search ends.
    pub early_stopping: Option<EarlyStopping>,
}

/// The metrics of generated texts.
pub const METRICS: [&str; 2] = ["bleu", "rougeL"];

/// What is wrong beside single values: key and complaint.
pub fn misplaced(config: &Config) -> Vec<(&'static str, String)> {
    let (task, own) = (&config.task, &config.generation);
    if task.predict_with_generate && task.kind != TaskKind::Seq2seq {
        let why = format!("{} does not know this, only seq2seq: remove it", task.kind);
        return vec![("task.predict_with_generate", why)];
    }
    let set = [
        ("generation.max_new_tokens", own.max_new_tokens.is_some()),
        ("generation.min_new_tokens", own.min_new_tokens.is_some()),
        ("generation.do_sample", own.do_sample.is_some()),
        ("generation.temperature", own.temperature.is_some()),
        ("generation.top_k", own.top_k.is_some()),
        ("generation.top_p", own.top_p.is_some()),
        ("generation.repetition_penalty", own.repetition_penalty.is_some()),
        ("generation.num_beams", own.num_beams.is_some()),
        ("generation.length_penalty", own.length_penalty.is_some()),
        ("generation.early_stopping", own.early_stopping.is_some()),
    ];
    let unused = "nothing is generated without task.predict_with_generate = true";
    let unused = |key| (key, unused.to_owned());
    set.into_iter().filter(|(_, is_set)| *is_set && !task.predict_with_generate).map(|(key, _)| unused(key)).collect()
}
