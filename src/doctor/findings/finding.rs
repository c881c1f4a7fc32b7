//! One finding of the doctor.

use serde::Serialize;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Training fails or does something else than configured.
    Problem,
    /// Training works, but is slow or may fail later.
    Warning,
    /// For information.
    Note,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name, for scripts and for `docs/doctor.md`.
    pub id: &'static str,
    pub severity: Severity,
    /// What was observed.
    pub seen: String,
    pub why: String,
    pub remedy: String,
}

impl Finding {
    pub(super) fn problem(id: &'static str, seen: String, why: &str, remedy: String) -> Finding {
        Finding { id, severity: Severity::Problem, seen, why: why.to_owned(), remedy }
    }

    pub(super) fn warning(id: &'static str, seen: String, why: &str, remedy: String) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::problem(id, seen, why, remedy) }
    }

    pub(super) fn note(id: &'static str, seen: String, why: &str, remedy: String) -> Finding {
        Finding { severity: Severity::Note, ..Finding::problem(id, seen, why, remedy) }
    }
}
