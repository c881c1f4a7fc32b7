//! The format of log lines, a setting of the process.

use clap::ValueEnum;
use std::sync::OnceLock;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line, with the rank.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets the format; the first call counts.
pub(super) fn set(format: LogFormat) {
    _ = FORMAT.set(format);
}

/// Whether every line is a JSON object.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}
