//! Metrics: pure functions from counts or from numbers, the same whatever the number of ranks.
//!
//! Ranks add up counts ([`Confusion::counts`]) or gather values, and then call these once; nothing here averages
//! averages. An undefined result is `None`, or 0 where the field's convention says so, and never a NaN.

mod classification;
mod regression;

pub use classification::Confusion;
pub use regression::{mse, pearson, spearman};

/// A named list of results, in the order in which they are shown.
///
/// Names are those of Hugging Face's GLUE metrics, without the `eval_` prefix: `accuracy`, `f1`,
/// `matthews_correlation`, `pearson`, `spearmanr`, `mse`.
pub type Metrics = Vec<(&'static str, f64)>;
