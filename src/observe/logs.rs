//! Logs through `tracing`, to standard error. `TRAINER_LOG` filters as `RUST_LOG` does elsewhere.

use clap::ValueEnum;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, with the rank.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts logging for this process; the calling thread's events carry the rank. Ranks other than 0 are silent below
/// warnings unless `TRAINER_LOG` says otherwise.
pub fn start(format: LogFormat, rank: usize) {
    _ = FORMAT.set(format);
    let default = if rank == 0 { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("TRAINER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A log that cannot be written is no reason to end a run.
    let builder = builder.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
    // A second start (a test, an embedding program) keeps the first subscriber.
    _ = match format {
        LogFormat::Text => builder.without_time().with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    if rank > 0 || format == LogFormat::Json {
        // The thread stays in this span to its end.
        std::mem::forget(tracing::error_span!("rank", rank).entered());
    }
}

/// Whether every line is a JSON object.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Tells a person something on standard error: as it is, or as JSON, one event a line.
pub fn tell(text: &str) {
    if is_json() {
        text.lines().for_each(|line| tracing::info!("{line}"));
    } else {
        write(text);
    }
}

/// With JSON logs, a line of `metrics.jsonl` as an event.
pub fn tell_metrics(metrics: &Value) {
    if is_json() {
        write(&json!({"level": "INFO", "message": "metrics", "metrics": metrics}).to_string());
    }
}

/// Tells why the program ends, on the last line, whatever the filter says.
pub fn tell_error(text: &str) {
    if is_json() {
        let rank = super::rank_of_environment();
        write(&json!({"level": "ERROR", "message": text, "rank": rank}).to_string());
    } else {
        write(text);
    }
}

/// One write, so that the lines of several ranks do not mix. A reader that has gone away must not end a run.
fn write(text: &str) {
    _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
