//! Metrics: pure functions of counts, numbers or texts, independent of the number of ranks.
//!
//! Ranks sum counts ([`Confusion::counts`]) or sums ([`Squad::sums`]), or gather values, and then compute the metric
//! once; averages are never averaged. An undefined result is `None`, or 0 by convention, and never NaN.

mod bleu;
mod class_report;
mod classification;
mod entities;
mod match_counts;
mod multi_label;
mod ranking;
#[cfg(test)]
mod reference;
mod regression;
mod retrieval;
mod rouge;
mod squad;
mod words;

pub use bleu::Bleu;
pub use class_report::{ClassReport, Scores};
pub use classification::Confusion;
pub use entities::{Entities, Reading, Span, TagSet};
pub use match_counts::MatchCounts;
pub use multi_label::MultiLabel;
pub use ranking::Ranking;
pub use regression::{mse, pearson, spearman};
pub use retrieval::{DEPTH, Ranked, retrieval};
pub use rouge::{RougeL, rouge_l};
pub use squad::{AnswerMatch, AnswerSums, Squad, SquadRules, match_answer};

/// Names and values of metrics, in display order.
///
/// The names follow Hugging Face's GLUE metrics, without the `eval_` prefix: `accuracy`, `f1`, `matthews_correlation`,
/// `pearson`, `spearmanr`, `mse`; and scikit-learn: `roc_auc`, `average_precision`.
pub type Metrics = Vec<(&'static str, f64)>;
