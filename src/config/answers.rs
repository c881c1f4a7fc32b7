//! The settings of question answering, which stand in `[task]`.

use super::choice::TaskKind;
use super::problems::Problems;
use super::raw::RawTask;
use serde::{Deserialize, Serialize};

/// How contexts are divided and answers chosen. Names and defaults are those of Hugging Face's run_qa.py.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerConfig {
    /// The tokens of a context that neighbouring windows share.
    pub doc_stride: usize,
    /// How many first and last tokens of a window, and answers of a question, are looked at: the best.
    pub n_best_size: usize,
    /// In tokens.
    pub max_answer_length: usize,
    /// "No answer" is chosen where its score is higher than the best answer's by more than this.
    pub null_score_diff_threshold: f64,
    /// Whether "no answer" may be chosen; otherwise found in the data.
    pub version_2_with_negative: Option<bool>,
}

impl Default for AnswerConfig {
    fn default() -> Self {
        AnswerConfig {
            doc_stride: 128,
            n_best_size: 20,
            max_answer_length: 30,
            null_score_diff_threshold: 0.0,
            version_2_with_negative: None,
        }
    }
}

/// The settings with their defaults, for question answering alone; for another task each that is written is a problem.
pub fn settings(raw: &RawTask, kind: TaskKind, problems: &mut Problems) -> Option<AnswerConfig> {
    const THRESHOLD: &str = "task.null_score_diff_threshold";
    if kind != TaskKind::QuestionAnswering {
        let written = [
            ("task.doc_stride", raw.doc_stride.is_some()),
            ("task.n_best_size", raw.n_best_size.is_some()),
            ("task.max_answer_length", raw.max_answer_length.is_some()),
            (THRESHOLD, raw.null_score_diff_threshold.is_some()),
            ("task.version_2_with_negative", raw.version_2_with_negative.is_some()),
        ];
        let sure = problems.is_written("task.kind") && problems.none_with(&["task.kind"]);
        for (key, _) in written.into_iter().filter(|(_, written)| *written && sure) {
            problems.with(key, format!("is for question-answering, and task.kind is \"{kind}\": remove it"));
        }
        return None;
    }
    let default = AnswerConfig::default();
    let threshold = raw.null_score_diff_threshold.unwrap_or(default.null_score_diff_threshold);
    if !threshold.is_finite() {
        problems.with(THRESHOLD, format!("found {threshold}, expected a number"));
    }
    Some(AnswerConfig {
        doc_stride: raw.doc_stride.unwrap_or(default.doc_stride),
        n_best_size: raw.n_best_size.map_or(default.n_best_size, |n| n.0),
        max_answer_length: raw.max_answer_length.map_or(default.max_answer_length, |n| n.0),
        null_score_diff_threshold: threshold,
        version_2_with_negative: raw.version_2_with_negative,
    })
}
