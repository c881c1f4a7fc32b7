//! The memory table, with one row per ZeRO stage.

use super::fill::size;
use crate::config::Recompute;
use crate::plan::memory::MemoryEstimate;

pub const STAGE_COLUMNS: [&str; 7] = ["ZeRO", "weights", "gradients", "optimizer", "activations", "peak", "fits"];

/// Returns a row of the table.
pub fn stage_row(name: String, need: &MemoryEstimate, fits: Option<bool>) -> Vec<String> {
    let [weights, gradients, optimizer, activations, _] = need.peak.map(size);
    let verdict = fits.map_or("", |fits| if fits { "yes" } else { "no" });
    vec![name, weights, gradients, optimizer, activations, size(need.total), verdict.into()]
}

/// Describes activation checkpointing: ` and activation checkpointing`.
pub fn checkpointing(recompute: Recompute) -> String {
    match recompute {
        Recompute::None | Recompute::Auto => " without activation checkpointing".into(),
        Recompute::First(n) => format!(" and activation checkpointing of the first {n} blocks"),
        Recompute::All => " and activation checkpointing".into(),
        Recompute::KeepEvery(n) => format!(" and activation checkpointing (parallel.recompute={n})"),
    }
}
