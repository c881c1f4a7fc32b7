//! The options of question answering.

use super::parse::at_least_one;
use crate::config::{AnswerConfig, TaskConfig};
use crate::error::{Error, Result};
use clap::Args;

/// Options for extracting answers: the settings of `[task]` with the same names.
#[derive(Debug, Args)]
#[command(next_help_heading = "Question answering")]
pub struct AnswerArgs {
    /// Overlap of neighboring windows of a context, in tokens [default: 128].
    #[arg(long, value_name = "TOKENS")]
    doc_stride: Option<usize>,
    /// Number of start and end positions to consider per window, and of answers per question [default: 20].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    n_best_size: Option<usize>,
    /// Maximum length of an answer, in tokens [default: 30].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    max_answer_length: Option<usize>,
    /// Choose "no answer" if its score exceeds the best answer's by more than this [default: 0].
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    null_score_diff_threshold: Option<f64>,
    /// Whether a question may have no answer [default: true if the model was trained on such
    /// questions, or the data has some].
    #[arg(long, value_name = "true|false")]
    version_2_with_negative: Option<bool>,
}

impl AnswerArgs {
    /// Applies the given options to the settings of a task.
    ///
    /// # Errors
    /// Exit 2: options of question answering for another task.
    pub fn apply(&self, task: &mut TaskConfig) -> Result<()> {
        let given = [
            ("--doc-stride", self.doc_stride.is_some()),
            ("--n-best-size", self.n_best_size.is_some()),
            ("--max-answer-length", self.max_answer_length.is_some()),
            ("--null-score-diff-threshold", self.null_score_diff_threshold.is_some()),
            ("--version-2-with-negative", self.version_2_with_negative.is_some()),
        ];
        match (&mut task.answers, given.into_iter().find(|(_, given)| *given)) {
            (Some(answers), _) => self.replace(answers),
            (None, None) => {}
            (None, Some((option, _))) => {
                let why =
                    format!("{option} applies to question-answering only, and the task is {}: remove it", task.kind);
                return Err(Error::input(why));
            }
        }
        Ok(())
    }

    fn replace(&self, answers: &mut AnswerConfig) {
        answers.doc_stride = self.doc_stride.unwrap_or(answers.doc_stride);
        answers.n_best_size = self.n_best_size.unwrap_or(answers.n_best_size);
        answers.max_answer_length = self.max_answer_length.unwrap_or(answers.max_answer_length);
        let threshold = answers.null_score_diff_threshold;
        answers.null_score_diff_threshold = self.null_score_diff_threshold.unwrap_or(threshold);
        answers.version_2_with_negative = self.version_2_with_negative;
    }
}
