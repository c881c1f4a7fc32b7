//! Progress: bars on a terminal, plain lines elsewhere, nothing on ranks other than 0.

use super::rank_of_environment;
use super::screen::Screen;
use crate::observe::logs;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Maximum time without a line if there is no bar.
const SILENCE: Duration = Duration::from_secs(10);
/// Minimum duration of a phase that shows a bar.
const MOMENT: Duration = Duration::from_millis(500);
/// Update interval of a [`Phase`].
const TICK: Duration = Duration::from_millis(100);

/// The progress of a run's steps.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    is_main: bool,
    shown: bool,
    /// Time of the last line.
    last_line: Cell<Instant>,
}

impl Progress {
    /// Creates the bar for a run of `total` steps, `done` of which are finished. Prints only if `shown`.
    pub fn new(total: u64, done: u64, shown: bool) -> Self {
        let bar = Screen::get().filter(|_| shown).map(|screen| {
            let bar = screen.bars.add(ProgressBar::new(total));
            set_style(&bar, "{bar:12} {pos}/{len} steps  {msg}  {elapsed} < {eta}");
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        Progress { bar, is_main: shown, shown: shown && !logs::is_json(), last_line: Cell::new(Instant::now()) }
    }

    /// Whether a new plain line is due.
    pub fn is_silent(&self) -> bool {
        self.shown && self.bar.is_none() && self.last_line.get().elapsed() >= SILENCE
    }

    /// Updates the bar after a step with its loss and the throughput.
    pub fn step(&self, step: u64, loss: f64, tokens_per_second: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(format!("loss {loss:.4}  {tokens_per_second:.0} tokens/s"));
        }
    }

    /// Prints a line about something other than metrics; with JSON logs an event.
    pub fn event(&self, text: &str) {
        if logs::is_json() && self.is_main {
            logs::tell(text);
        } else {
            self.line(text);
        }
    }

    /// Prints a permanent line, above the bar if there is one. With JSON logs the metrics events replace it.
    pub fn line(&self, text: &str) {
        self.last_line.set(Instant::now());
        let text = &logs::wrap(text, 2);
        match (&self.bar, Screen::get()) {
            (Some(_), Some(screen)) => screen.line(text),
            _ if self.shown => logs::tell(text),
            _ => {}
        }
    }

    /// Prints a warning; with JSON logs as an event.
    pub fn warn(&self, text: &str) {
        if logs::is_json() { logs::warn(text) } else { self.line(&format!("warning: {text}")) }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints a line in response to a user action, above all bars.
pub fn note(text: &str) {
    let text = logs::wrap(text, 2);
    match Screen::get() {
        Some(screen) => screen.line(&text),
        None => logs::tell(&text),
    }
}

/// A phase besides the steps that may take long, such as loading or evaluation; it ends when dropped. A bar appears
/// after a moment; without a terminal, a line every ten seconds.
#[derive(Debug)]
pub struct Phase {
    done: Arc<AtomicU64>,
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Phase {
    /// Starts a phase of `total` units, counted by [`Phase::advance`].
    pub fn of(what: impl Into<String>, total: u64, unit: &'static str) -> Phase {
        let done = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&done);
        let mut phase = Phase::watch(what, unit, move || (read.load(Ordering::Relaxed), total));
        phase.done = done;
        phase
    }

    /// Starts a phase whose units are counted elsewhere: `state` returns the finished and the total number. While these
    /// are zero, the elapsed time is shown.
    pub fn watch(
        what: impl Into<String>,
        unit: &'static str,
        state: impl Fn() -> (u64, u64) + Send + 'static,
    ) -> Phase {
        let (stop, stopped) = channel();
        let what = what.into();
        let show = move || {
            let (began, mut last_line, mut bar, mut drawn) = (Instant::now(), Instant::now(), None, None);
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let (done, total) = state();
                match Screen::get() {
                    Some(screen) if bar.is_some() || began.elapsed() >= MOMENT => {
                        let bar = bar.get_or_insert_with(|| screen.bars.add(ProgressBar::new(0)));
                        // The remaining time is unknown before the first unit.
                        if drawn.replace((total, done > 0)) != Some((total, done > 0)) {
                            lay_out(bar, &what, unit, (done, total));
                        }
                        bar.set_position(done);
                        bar.tick();
                    }
                    None if last_line.elapsed() >= SILENCE => {
                        last_line = Instant::now();
                        let line = line(&what, unit, (done, total), began.elapsed());
                        logs::tell(&logs::wrap(&line, 2));
                    }
                    _ => {}
                }
            }
            if let (Some(bar), Some(screen)) = (bar, Screen::get()) {
                bar.finish_and_clear();
                screen.bars.remove(&bar);
            }
        };
        // Without the thread only the display is missing.
        let shown = (rank_of_environment() == 0)
            .then(|| Some((stop, thread::Builder::new().name("progress".into()).spawn(show).ok()?)));
        Phase { done: Arc::default(), shown: shown.flatten() }
    }

    /// Adds finished units.
    pub fn advance(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.shown.take() {
            drop(stop);
            // Remove the bar before other output. Ignore a panic of the thread.
            _ = thread.join();
        }
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn lay_out(bar: &ProgressBar, what: &str, unit: &str, (done, total): (u64, u64)) {
    bar.set_length(total);
    let left = if done > 0 { " < {eta}" } else { "" };
    let counts = format!("{{bar:12}} {{pos}}/{{len}} {unit}  {{elapsed}}{left}  {{msg}}");
    set_style(bar, if total > 0 { &counts } else { "{elapsed}  {msg}" });
    // A full-width line would break when the terminal echoes a key.
    let room = 40_usize.saturating_sub(2 * total.to_string().len() + unit.len());
    bar.set_message(shortened(what, room));
}

/// Shortens a name to `room` characters, keeping its end, which distinguishes files.
fn shortened(what: &str, room: usize) -> String {
    let (verb, name) = what.split_once(' ').unwrap_or((what, ""));
    let (length, room) = (name.chars().count(), room.saturating_sub(verb.chars().count() + 1));
    if length <= room {
        return what.to_owned();
    }
    let end: String = name.chars().skip(length + 3 - room.max(3)).collect();
    format!("{verb} ...{end}")
}

/// Formats a phase's line without a bar: `loading m: 12 of 30 M parameters, 0:15 left`.
fn line(what: &str, unit: &str, (done, total): (u64, u64), elapsed: Duration) -> String {
    let elapsed = elapsed.as_secs_f64();
    let left = elapsed * total.saturating_sub(done) as f64 / done as f64;
    match (total, done) {
        (0, _) => format!("{what}: {} elapsed", clock(elapsed)),
        (_, 0) => format!("{what}: 0 of {total} {unit}, {} elapsed", clock(elapsed)),
        _ => format!("{what}: {done} of {total} {unit}, {} left", clock(left)),
    }
}

/// Formats a duration in seconds: `3:07`, `1:02:09`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shortened("tokenizing data/train.jsonl", 27), "tokenizing data/train.jsonl");
        assert_eq!(shortened("tokenizing data/train.jsonl", 26), "tokenizing .../train.jsonl");
        assert_eq!(shortened("evaluating", 5), "evaluating");
        assert!(shortened("tokenizing data/train.jsonl", 20).len() <= 20);
    }

    #[test]
    fn a_phase_tells_how_far_it_is() {
        let text = |state| line("loading m", "texts", state, Duration::from_secs(10));
        assert_eq!(text((0, 0)), "loading m: 0:10 elapsed");
        assert_eq!(text((0, 30)), "loading m: 0 of 30 texts, 0:10 elapsed");
        assert_eq!(text((10, 30)), "loading m: 10 of 30 texts, 0:20 left");
        let phase = Phase::of("counting", 3, "texts");
        phase.advance(2);
        assert_eq!(phase.done.load(Ordering::Relaxed), 2);
    }
}
