//! Metrics: pure functions from counts, numbers or texts, the same whatever the number of ranks.
//!
//! Ranks add up counts ([`Confusion::counts`]) or sums ([`Squad::sums`]), or gather values, and then call these once;
//! nothing here averages averages. An undefined result is `None`, or 0 where the field's convention says so, and
//! never a NaN.

mod bleu;
mod classification;
mod entities;
mod match_counts;
mod multi_label;
mod ranking;
#[cfg(test)]
mod reference;
mod regression;
mod rouge;
mod squad;
mod words;

pub use bleu::Bleu;
pub use classification::Confusion;
pub use entities::{Entities, Reading, Span, TagSet};
pub use match_counts::MatchCounts;
pub use multi_label::MultiLabel;
pub use ranking::Ranking;
pub use regression::{mse, pearson, spearman};
pub use rouge::{RougeL, rouge_l};
pub use squad::{AnswerMatch, AnswerSums, Squad, SquadRules, match_answer};

/// A named list of results, in the order in which they are shown.
///
/// Names are those of Hugging Face's GLUE metrics, without the `eval_` prefix: `accuracy`, `f1`,
/// `matthews_correlation`, `pearson`, `spearmanr`, `mse`; and of scikit-learn's functions: `roc_auc`, `average_precision`.
pub type Metrics = Vec<(&'static str, f64)>;
