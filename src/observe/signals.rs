//! Signals that ask a run to write a checkpoint and stop.
//!
//! SIGUSR1 always does: `kill -USR1` to mpirun reaches every rank, and schedulers send it before a time limit. SIGINT and
//! SIGTERM do in a run of one rank; under mpirun they mean that the job is being killed, within two seconds.

use crate::error::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether a stop was asked for.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that nothing has raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
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

/// A terminal's Ctrl-C.
pub const INTERRUPT: &[SignalKind] = &[SignalKind::interrupt()];
/// The terminal has gone.
pub const HANG_UP: &[SignalKind] = &[SignalKind::hangup()];

/// How many signals have come.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    /// So far.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Counts these signals, on the runtime; they have no other effect any more.
///
/// # Errors
/// When the system refuses a handler.
pub fn count(runtime: &tokio::runtime::Handle, kinds: &[SignalKind]) -> Result<Count> {
    let _inside = runtime.enter();
    let count = Count::default();
    for &kind in kinds {
        let mut stream = signal(kind).context("signal handler")?;
        let count = count.clone();
        runtime.spawn(async move {
            while stream.recv().await.is_some() {
                count.0.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    Ok(count)
}

/// Raises `flag` on these signals, on the runtime. On a second SIGINT calls `again`, which ends the process.
///
/// # Errors
/// When the system refuses a handler.
pub fn listen(runtime: &tokio::runtime::Handle, kinds: &[SignalKind], flag: &StopFlag, again: fn() -> !) -> Result<()> {
    let _inside = runtime.enter();
    for &kind in kinds {
        let mut stream = signal(kind).context("signal handler")?;
        let flag = flag.clone();
        runtime.spawn(async move {
            while stream.recv().await.is_some() {
                if kind == SignalKind::interrupt() && flag.raised() {
                    again();
                }
                flag.raise();
            }
        });
    }
    Ok(())
}
