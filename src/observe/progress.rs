//! Progress: a bar on a terminal, plain lines elsewhere, nothing on ranks other than 0.

use crate::observe::logs;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest time without a line where there is no bar.
const SILENCE: Duration = Duration::from_secs(10);
/// Names of processes that pass on what their children write to standard error.
const LAUNCHERS: [&str; 5] = ["mpirun", "mpiexec", "orterun", "prterun", "trainer"];

/// The progress of a run's steps.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Where the bar is and lines go, if that is a launcher's terminal. What goes through the launcher comes at any time,
    /// and would damage the bar.
    launchers: Option<Term>,
    plain: bool,
    /// When the last line was written.
    told: Cell<Instant>,
}

impl Progress {
    /// For a run of `total` steps of which `done` are behind it. Only `shown` ranks print.
    pub fn new(total: u64, done: u64, shown: bool) -> Self {
        let text = shown && !logs::is_json();
        let own = std::io::stderr().is_terminal();
        let launchers = (text && !own).then(launchers_terminal).flatten();
        let term = launchers.clone().or_else(|| (text && own).then(Term::stderr));
        // Such a terminal shows no bar.
        let term = term.filter(|_| std::env::var_os("TERM").is_some_and(|name| name != "dumb"));
        let launchers = launchers.filter(|_| term.is_some());
        let plain = text && term.is_none();
        let bar = term.map(|term| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::term(term, 5));
            let template = "{bar:12} {pos}/{len} steps  {msg}  {elapsed} < {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        Progress { bar, launchers, plain, told: Cell::new(Instant::now()) }
    }

    /// Whether a person who sees plain lines has seen none for a while.
    pub fn is_silent(&self) -> bool {
        self.plain && self.told.get().elapsed() >= SILENCE
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
        self.told.set(Instant::now());
        let text = &logs::wrap(text, 2);
        match (&self.bar, &self.launchers) {
            // A terminal that has gone away must not end a run.
            (Some(bar), Some(term)) => bar.suspend(|| _ = term.write_line(text)),
            (Some(bar), None) => bar.suspend(|| logs::tell(text)),
            (None, _) if self.plain => logs::tell(text),
            (None, _) => {}
        }
    }

    /// A warning, with JSON logs as an event.
    pub fn warn(&self, text: &str) {
        if logs::is_json() { logs::warn(text) } else { self.line(&format!("warning: {text}")) }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The terminal on which launchers on this machine (mpirun, `trainer launch`) show what their ranks write to standard error;
/// `None` where that goes to a file or a pipe.
fn launchers_terminal() -> Option<Term> {
    // Somebody may have sent it elsewhere: a shell between the launcher and this process, or mpirun itself, to a file.
    if !fs::read_link("/proc/self/fd/2").ok()?.to_string_lossy().starts_with("pipe:") {
        return None;
    }
    let mut process = parent(std::process::id())?;
    while LAUNCHERS.contains(&fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim_end()) {
        let words = fs::read(format!("/proc/{process}/cmdline")).ok()?;
        if String::from_utf8_lossy(&words).contains("-output-filename") {
            return None;
        }
        let end = fs::read_link(format!("/proc/{process}/fd/2")).ok()?;
        if let Some(file) = terminal(&end) {
            return Some(Term::read_write_pair(file.try_clone().ok()?, file));
        }
        process = parent(process)?;
    }
    None
}

/// The terminal of this name, if it is one.
fn terminal(path: &Path) -> Option<File> {
    /// `O_NOCTTY`: opening it must not make it this process's controlling terminal.
    const NOT_OURS: i32 = 0o400;
    let file =
        path.starts_with("/dev").then(|| OpenOptions::new().read(true).write(true).custom_flags(NOT_OURS).open(path));
    file?.ok().filter(File::is_terminal)
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// A duration in seconds for a person: `3:07`, `1:02:09`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_no_terminals() {
        assert!(terminal(Path::new("/dev/null")).is_none() && terminal(Path::new("pipe:[1]")).is_none());
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
    }
}
