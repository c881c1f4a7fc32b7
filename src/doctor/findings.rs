//! Findings (what is wrong, why it matters, what to do) as pure functions of the facts.

mod agreement;
mod finding;
mod folder;
mod gpus;
mod host;
mod ranks;
mod sweep;
#[cfg(test)]
mod tests;

pub use finding::{Finding, Severity};

use super::facts::Facts;

/// Maximum number of hosts listed in one finding.
const SHOWN: usize = 4;

/// Returns all findings, the most severe first.
pub fn all(facts: &Facts) -> Vec<Finding> {
    let groups = [ranks::all, gpus::all, agreement::all, folder::all, sweep::all, host::all];
    let mut findings = joined(groups.iter().flat_map(|group| group(facts)).collect());
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Merges equal findings of several hosts.
fn joined(findings: Vec<Finding>) -> Vec<Finding> {
    let mut joined: Vec<(Finding, Vec<String>)> = Vec::new();
    for finding in findings {
        let is_same = |(other, _): &&mut (Finding, Vec<String>)| {
            Finding { seen: finding.seen.clone(), ..other.clone() } == finding
        };
        match joined.iter_mut().find(is_same) {
            Some((_, seen)) => seen.push(finding.seen),
            None => joined.push((finding.clone(), vec![finding.seen])),
        }
    }
    let join = |(finding, mut seen): (Finding, Vec<String>)| {
        let more = seen.len().saturating_sub(SHOWN);
        seen.truncate(SHOWN);
        let more = if more > 0 { format!("; and {more} more like these") } else { String::new() };
        Finding { seen: seen.join("; ") + &more, ..finding }
    };
    joined.into_iter().map(join).collect()
}

pub fn problems(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.severity == Severity::Problem).count()
}
