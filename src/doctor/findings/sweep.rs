//! Collectives that failed or brought wrong values.

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
            "gradients would be wrong in the same way, and training would go on with them",
            "look for a defective GPU, cable or memory (`nvidia-smi -q` for ECC errors, `dmesg`), and for a library with a \
             known fault; leave that rank's host out and run this again"
                .to_owned(),
        )
    });
    let error = sweep.error.as_ref().map(|error| {
        Finding::problem(
            "sweep-failed",
            format!("a collective did not come to its end ({}): {error}", sweep.backend),
            "training makes the same collectives in every step",
            "see what the rank that is named is doing (`top`, `dmesg` on its host: stopped, swapping, killed), and whether \
             hosts reach each other on all ports"
                .to_owned(),
        )
    });
    wrong.into_iter().chain(error).collect()
}
