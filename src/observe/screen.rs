//! The user's terminal, and the progress bars at its bottom.

use super::log_format::is_json;
use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// Names of processes that forward their children's standard error.
const LAUNCHERS: [&str; 5] = ["mpirun", "mpiexec", "orterun", "prterun", "trainer"];

/// A terminal that can show bars.
#[derive(Debug)]
pub(super) struct Screen {
    pub bars: MultiProgress,
    /// The launcher's terminal, if lines are written there. Lines that go through the launcher arrive at any time and
    /// would damage the bars.
    launchers: Option<Term>,
}

static SCREEN: OnceLock<Option<Screen>> = OnceLock::new();

impl Screen {
    /// Returns the terminal of this process, the same for all bars; `None` if only plain lines are possible.
    pub fn get() -> Option<&'static Screen> {
        SCREEN.get_or_init(Screen::find).as_ref()
    }

    fn find() -> Option<Screen> {
        // A dumb terminal cannot show bars.
        let dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
        if dumb || is_json() {
            return None;
        }
        let launchers = if std::io::stderr().is_terminal() { None } else { Some(launchers_terminal()?) };
        let target = ProgressDrawTarget::term(launchers.clone().unwrap_or_else(Term::stderr), 5);
        Some(Screen { bars: MultiProgress::with_draw_target(target), launchers })
    }

    /// Prints a line above the bars. Ignores a closed terminal.
    pub fn line(&self, text: &str) {
        self.bars.suspend(|| match &self.launchers {
            Some(term) => _ = term.write_line(text),
            None => _ = std::io::stderr().write_all(format!("{text}\n").as_bytes()),
        });
    }
}

/// Writes whole lines to standard error in one write, so that lines of several ranks do not mix, and above the bars if
/// there are any. Ignores a closed pipe.
pub(super) fn write(bytes: &[u8]) {
    let write = || _ = std::io::stderr().write_all(bytes);
    match SCREEN.get() {
        Some(Some(Screen { bars, launchers: None })) => bars.suspend(write),
        _ => write(),
    }
}

/// The terminal on which launchers on this machine (mpirun, `trainer launch`) show what their ranks write to standard
/// error; `None` where that goes to a file or a pipe.
fn launchers_terminal() -> Option<Term> {
    // It may be redirected: by a shell between the launcher and this process, or by mpirun to a file.
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

/// Opens the terminal at this path, if it is one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_no_terminals() {
        assert!(terminal(Path::new("/dev/null")).is_none() && terminal(Path::new("pipe:[1]")).is_none());
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
    }
}
