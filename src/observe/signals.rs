//! Signals that make a run write a checkpoint and stop.
//!
//! SIGUSR1 always does: `kill -USR1` to mpirun reaches every rank, and schedulers send it before a time limit. SIGINT
//! and SIGTERM do in a run of one rank; under mpirun they mean that the job is killed within about a second.

use crate::error::{Context, Result};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// A flag that requests a stop.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Creates a flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag; returns whether it was raised before.
    pub fn raise(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Lowers the flag; returns whether it was raised.
    pub fn lower(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    pub fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Signals that stop a run under any launcher.
pub const ALWAYS: &[SignalKind] = &[SignalKind::user_defined1()];
/// Signals that stop a run of one rank.
pub const ALONE: &[SignalKind] = &[SignalKind::interrupt(), SignalKind::terminate()];
/// The signal by which a launcher ends ranks.
pub const TERMINATE: SignalKind = SignalKind::terminate();
/// The signal of Ctrl-C.
pub const INTERRUPT: SignalKind = SignalKind::interrupt();
/// The signal of a closed terminal.
pub const HANG_UP: SignalKind = SignalKind::hangup();

/// Lets a write beyond the limit of `ulimit -f` fail as one to a full disk does: the signal's default ends the process
/// without a message. Programs that this process starts have the default again, which a handler leaves them, unlike a
/// signal that is ignored.
///
/// # Errors
/// If the system refuses a handler.
pub fn outlive_file_limit() -> Result<()> {
    const SIGXFSZ: i32 = 25;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("signal handler")?;
    let _inside = runtime.enter();
    // The handler stays when the stream and the runtime are dropped.
    signal(SignalKind::from_raw(SIGXFSZ)).map(drop).context("signal handler")
}

/// Whether this process was started with a signal ignored, like SIGHUP by `nohup`; it should stay ignored.
pub fn ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status, kind.as_raw_value())
}

/// The same for a text in the format of proc_pid_status(5).
fn ignored_in(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}

/// Raises `flag` on these signals, on the runtime, and calls `first` with the first signal. On a SIGINT after another
/// signal it calls `again` first.
///
/// # Errors
/// If the system refuses a handler.
pub fn listen(
    runtime: &tokio::runtime::Handle,
    kinds: &[SignalKind],
    flag: &StopFlag,
    first: impl Fn(SignalKind) + Clone + Send + 'static,
    again: impl Fn() + Clone + Send + 'static,
) -> Result<()> {
    let _inside = runtime.enter();
    for &kind in kinds {
        let mut stream = signal(kind).context("signal handler")?;
        let (flag, first, again) = (flag.clone(), first.clone(), again.clone());
        runtime.spawn(async move {
            while stream.recv().await.is_some() {
                if kind == SignalKind::interrupt() && flag.raised() {
                    again();
                }
                if !flag.raise() {
                    first(kind);
                }
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_says() {
        assert!(ignored_in("Name:\ttrainer\nSigIgn:\t0000000000001001\n", 1));
        assert!(!ignored_in("SigIgn:\t0000000000001000\n", 1) && !ignored_in("", 1));
    }
}
