//! One finding of the doctor.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Training fails, or does not do what was asked for.
    Problem,
    /// Training works, but slowly or not for long.
    Warning,
    /// Good to know.
    Note,
}

/// One thing that the doctor has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that stays, for scripts and for `docs/doctor.md`.
    pub id: &'static str,
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
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
