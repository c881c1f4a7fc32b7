//! Signals that ask a run to write a checkpoint and stop.
//!
//! SIGUSR1 always does: `kill -USR1` to mpirun reaches every rank, and schedulers send it before a time limit. SIGINT and
//! SIGTERM do in a run of one rank; under mpirun they mean that the job is being killed, within about a second.

use crate::error::{Context, Result};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether a stop was asked for.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that nothing has raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the stop; whether somebody had asked before.
    pub fn raise(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Takes the wish back; whether there was one.
    pub fn lower(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    /// Whether somebody asked.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What asks a run to stop under any launcher.
pub const ALWAYS: &[SignalKind] = &[SignalKind::user_defined1()];
/// What asks a run of one rank to stop.
pub const ALONE: &[SignalKind] = &[SignalKind::interrupt(), SignalKind::terminate()];
/// What a launcher sends to ranks that it ends.
pub const TERMINATE: SignalKind = SignalKind::terminate();
/// What a terminal sends on Ctrl-C.
pub const INTERRUPT: SignalKind = SignalKind::interrupt();
/// What a terminal sends when it goes.
pub const HANG_UP: SignalKind = SignalKind::hangup();

/// Whether this process was started without a mind for a signal, as `nohup` does with SIGHUP: it should stay so.
pub fn ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status, kind.as_raw_value())
}

/// The same by a text as proc_pid_status(5) describes it.
fn ignored_in(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}

/// Raises `flag` on these signals, on the runtime, and calls `first` with the signal that did. On a SIGINT after another of
/// them it calls `again` first.
///
/// # Errors
/// When the system refuses a handler.
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
