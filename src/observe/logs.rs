//! Logs through `tracing`, to standard error. `TRAINER_LOG` filters as `RUST_LOG` does elsewhere.

pub use super::log_format::{LogFormat, is_json};

use super::{log_format, screen};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Starts logging for this process; the calling thread's events carry the rank. Ranks other than 0 are silent below
/// warnings unless `TRAINER_LOG` says otherwise.
pub fn start(format: LogFormat, rank: usize) {
    log_format::set(format);
    let default = if rank == 0 { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("TRAINER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Lines);
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

/// Tells a person something on standard error: as it is, or as JSON, one event a line.
pub fn tell(text: &str) {
    if is_json() {
        text.lines().for_each(|line| tracing::info!("{line}"));
    } else {
        write(text);
    }
}

/// The columns that a line has at most, if there is a space to break it at.
const WIDTH: usize = 80;

/// A line in lines of at most 80 columns: broken at spaces, all but the first indented.
pub fn wrap(line: &str, indent: usize) -> String {
    if is_json() {
        return line.to_owned();
    }
    let mut lines = Vec::new();
    let (mut rest, mut before) = (line, 0);
    while before + rest.chars().count() > WIDTH {
        let spaces = || rest.char_indices().enumerate().filter(|(_, (_, c))| *c == ' ');
        // Not before the text of a line that begins with a label.
        let text = if before == 0 { indent } else { 0 };
        let fits = || spaces().filter(|(column, _)| (text..=WIDTH - before).contains(column) && *column > 0);
        // Between two entries rather than within one.
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

/// With JSON logs, a line of `metrics.jsonl` as an event.
pub fn tell_metrics(metrics: &Value) {
    if is_json() {
        write(&event("INFO", "metrics", json!({"metrics": metrics})).to_string());
    }
}

/// An event of `tracing` with the rank where all events have it, whatever thread it comes from.
fn with_rank(mut event: Map<String, Value>) -> Value {
    let of_span = event.remove("span").and_then(|mut span| span.get_mut("rank").map(Value::take));
    event.entry("rank").or_insert(of_span.unwrap_or_else(|| json!(super::rank_of_environment())));
    Value::Object(event)
}

/// An event as those of `tracing` look, with more in it.
fn event(level: &str, message: &str, more: Value) -> Value {
    let mut event =
        json!({"timestamp": now(), "level": level, "message": message, "rank": super::rank_of_environment()});
    if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
        event.extend(more);
    }
    event
}

/// The time as `tracing` writes it (RFC 3339).
fn now() -> String {
    let mut text = String::new();
    // Into a string nothing fails.
    _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// A warning of rank 0's, whatever the filter says.
pub fn warn(text: &str) {
    if is_json() {
        write(&event("WARN", text, Value::Null).to_string());
    } else {
        write(&wrap(&format!("warning: {text}"), 2));
    }
}

/// Tells why the program ends, on the last line, whatever the filter says.
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

/// What a terminal would break anywhere is broken at spaces; programs read whole lines.
fn on_a_terminal(text: &str) -> String {
    match std::io::stderr().is_terminal() {
        true => text.lines().map(|line| wrap(line, 2)).collect::<Vec<_>>().join("\n"),
        false => text.to_owned(),
    }
}

/// Events of `tracing`, which come in whole lines.
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
        // What has no space stays whole, and with its label.
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
