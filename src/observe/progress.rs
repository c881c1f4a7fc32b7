//! Progress: a bar on a terminal, plain lines elsewhere, nothing on ranks other than 0.

use crate::observe::logs;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// The progress of a run's steps.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
}

impl Progress {
    /// For a run of `total` steps of which `done` are behind it. Only `shown` ranks print.
    pub fn new(total: u64, done: u64, shown: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !logs::is_json();
        let bar = (shown && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let template = "{bar:30} {pos}/{len} steps  {msg}  {elapsed} < {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        Progress { bar, plain: shown && !terminal && !logs::is_json() }
    }

    /// After a step: its loss and the speed so far.
    pub fn step(&self, step: u64, loss: f64, tokens_per_second: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(format!("loss {loss:.4}  {tokens_per_second:.0} tokens/s"));
        }
    }

    /// A line that stays: above the bar, or plainly. With JSON logs the metrics' own events say it all.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| logs::tell(text)),
            None if self.plain => logs::tell(text),
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration in seconds for a person: `3:07`, `1:02:09`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}
