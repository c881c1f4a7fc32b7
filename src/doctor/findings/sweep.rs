//! Collectives that failed or returned wrong values.

use super::finding::Finding;
use crate::doctor::facts::Facts;
use crate::observe::memory::human;

pub fn all(facts: &Facts) -> Vec<Finding> {
    let Some(sweep) = &facts.sweep else { return Vec::new() };
    let wrong = sweep.wrong.as_ref().map(|w| {
        Finding::problem(
            "sweep-wrong-value",
            format!(
                "{} of {} ({}): rank {}, element {}: expected {}, found {}",
                w.collective,
                human(w.bytes),
                sweep.backend,
                w.rank,
                w.element,
                w.expected,
                w.found
            ),
            "gradients would be wrong in the same way, and training would not notice",
            "check for a defective GPU, cable or memory (`nvidia-smi -q` for ECC errors, `dmesg`), and for a library \
             with a known bug; exclude that rank's host and run this again"
                .to_owned(),
        )
    });
    let error = sweep.error.as_ref().map(|error| {
        Finding::problem(
            "sweep-failed",
            format!("a collective did not finish ({}): {error}", sweep.backend),
            "training runs the same collectives in every step",
            "check what the named rank is doing (`top`, `dmesg` on its host: stopped, swapping, killed), and whether \
             the hosts can reach each other on all ports"
                .to_owned(),
        )
    });
    wrong.into_iter().chain(error).collect()
}
