//! Logs through `tracing` to standard error. `TRAINER_LOG` filters like `RUST_LOG`.

pub use super::log_format::{LogFormat, is_json};

use super::{log_format, screen};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Initializes logging for this process; events of the calling thread carry the rank. Ranks other than 0 log only
/// warnings and errors unless `TRAINER_LOG` is set.
pub fn start(format: LogFormat, rank: usize) {
    log_format::set(format);
    let default = if rank == 0 { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("TRAINER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Lines);
    // A failed write of a log must not end a run.
    let builder = builder.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
    // A second initialization (tests, embedding programs) keeps the first subscriber.
    _ = match format {
        LogFormat::Text => builder.without_time().with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    if rank > 0 || format == LogFormat::Json {
        // The thread stays in this span until it ends.
        std::mem::forget(tracing::error_span!("rank", rank).entered());
    }
}

/// Prints text to standard error: unchanged, or as JSON with one event per line.
pub fn tell(text: &str) {
    if is_json() {
        text.lines().for_each(|line| tracing::info!("{line}"));
    } else {
        write(text);
    }
}

/// Maximum line width in columns, if there is a space to break the line at.
const WIDTH: usize = 80;

/// Wraps a line at spaces to at most 80 columns; all lines but the first are indented.
pub fn wrap(line: &str, indent: usize) -> String {
    if is_json() {
        return line.to_owned();
    }
    let mut lines = Vec::new();
    let (mut rest, mut before) = (line, 0);
    while before + rest.chars().count() > WIDTH {
        let spaces = || rest.char_indices().enumerate().filter(|(_, (_, c))| *c == ' ');
        // Do not break between a label and its text.
        let text = if before == 0 { indent } else { 0 };
        let fits = || spaces().filter(|(column, _)| (text..=WIDTH - before).contains(column) && *column > 0);
        // Prefer a break between two entries.
        let between = fits().filter(|(_, (at, _))| rest[*at..].starts_with("  ")).last();
        let between = between.filter(|(column, _)| *column > WIDTH / 2);
        let place = between.or_else(|| fits().last()).or_else(|| spaces().find(|(column, _)| *column > text));
        let Some((_, (at, _))) = place else { break };
        lines.push(rest[..at].trim_end());
        (rest, before) = (rest[at..].trim_start(), indent);
    }
    lines.push(rest);
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

/// With JSON logs, prints a line of `metrics.jsonl` as an event.
pub fn tell_metrics(metrics: &Value) {
    if is_json() {
        write(&event("INFO", "metrics", json!({"metrics": metrics})).to_string());
    }
}

/// Moves the rank of a `tracing` event to the position that all events have, for events of any thread.
fn with_rank(mut event: Map<String, Value>) -> Value {
    let of_span = event.remove("span").and_then(|mut span| span.get_mut("rank").map(Value::take));
    event.entry("rank").or_insert(of_span.unwrap_or_else(|| json!(super::rank_of_environment())));
    Value::Object(event)
}

/// Returns an event in the format of `tracing`, with additional fields.
fn event(level: &str, message: &str, more: Value) -> Value {
    let mut event =
        json!({"timestamp": now(), "level": level, "message": message, "rank": super::rank_of_environment()});
    if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
        event.extend(more);
    }
    event
}

/// Returns the time in the format of `tracing` (RFC 3339).
pub fn now() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// Prints a warning, whatever the filter.
pub fn warn(text: &str) {
    if is_json() {
        write(&event("WARN", text, Value::Null).to_string());
    } else {
        write(&wrap(&format!("warning: {text}"), 2));
    }
}

/// Prints the reason why the program ends as the last line, whatever the filter.
pub fn tell_error(text: &str) {
    if is_json() {
        write(&event("ERROR", text, Value::Null).to_string());
    } else {
        write(&on_a_terminal(text));
    }
}

fn write(text: &str) {
    screen::write(format!("{text}\n").as_bytes());
}

/// Wraps text for a terminal; other readers get whole lines.
fn on_a_terminal(text: &str) -> String {
    match std::io::stderr().is_terminal() {
        true => text.lines().map(|line| wrap(line, 2)).collect::<Vec<_>>().join("\n"),
        false => text.to_owned(),
    }
}

/// Writes events of `tracing`, which are whole lines.
struct Lines;

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match (serde_json::from_slice(bytes), std::str::from_utf8(bytes)) {
            (Ok(Value::Object(event)), _) if is_json() => write(&with_rank(event).to_string()),
            (_, Ok(text)) => write(&on_a_terminal(text.trim_end_matches('\n'))),
            _ => screen::write(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_into_80_columns() {
        let long = format!("batch     {}", ["twelve-chars"; 12].join(" "));
        let wrapped = wrap(&long, 10);
        let lines: Vec<&str> = wrapped.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{wrapped}");
        assert_eq!((lines.len(), lines[1].find('t')), (3, Some(10)));
        assert_eq!(lines.join(" ").split_whitespace().count(), 13);
        // Text without a space stays in one piece, on the line of its label.
        let path = format!("output    /{}", "x".repeat(90));
        assert_eq!(wrap(&path, 10), path);
        assert_eq!(wrap(&format!("{path}: 5 examples"), 10), format!("{path}:\n          5 examples"));
        assert_eq!(wrap("short", 10), "short");
        let entries = format!("step 1/1  {}", ["eval_name 0.1234"; 5].join("  "));
        assert!(wrap(&entries, 2).lines().all(|line| line.ends_with("eval_name 0.1234")), "{}", wrap(&entries, 2));
        let exact = format!("{} {}", "a".repeat(40), "b".repeat(39));
        assert_eq!((wrap(&exact, 2), wrap(&format!("{exact}c"), 2).lines().count()), (exact, 2));
    }
}
