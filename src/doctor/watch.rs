//! Ends the doctor if something hangs that no collective's timeout covers: the start of MPI, a driver, an unreachable
//! file system.

use crate::error::Kind;
use crate::observe::logs::tell_error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);
/// Lets a collective's own timeout come first, because it names the late rank.
pub const GRACE: Duration = Duration::from_millis(1500);
/// Delay of NCCL's watchdog, so that rank 0 reports first.
pub const NCCL_GRACE: Duration = Duration::from_secs(3);
/// Delay after which this process ends the job.
const LAST_GRACE: Duration = Duration::from_secs(15);

/// Tracks the doctor's current step and its duration.
pub struct Watch(Arc<Mutex<State>>);

struct State {
    rank: usize,
    doing: String,
    since: Instant,
    timeout: Duration,
    warned: bool,
    /// Whether `on_hang` was called.
    reported: bool,
    over: bool,
    /// Prints what is known, if a step hangs.
    on_hang: Option<Box<dyn FnOnce() + Send>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Starts the watchdog; `abort` ends the process and with it the job.
    pub fn start(rank: usize, timeout: Duration, abort: fn(i32) -> !) -> std::io::Result<Watch> {
        let state = State {
            rank,
            doing: String::new(),
            since: Instant::now(),
            timeout,
            warned: false,
            reported: false,
            over: false,
            on_hang: None,
        };
        let state = Arc::new(Mutex::new(state));
        let watched = Arc::clone(&state);
        thread::Builder::new().name("doctor-watch".to_owned()).spawn(move || {
            loop {
                thread::sleep(INTERVAL);
                let mut state = locked(&watched);
                if state.over {
                    return;
                }
                if state.check() {
                    drop(state);
                    abort(Kind::Peer.exit_code());
                }
            }
        })?;
        Ok(Watch(state))
    }

    /// Starts a new step.
    pub fn doing(&self, what: impl Into<String>) {
        let mut state = locked(&self.0);
        (state.doing, state.since, state.warned) = (what.into(), Instant::now(), false);
    }

    /// Sets the rank once it is known.
    pub fn rank(&self, rank: usize) {
        locked(&self.0).rank = rank;
    }

    /// Sets what to print if a step hangs from now on, unless a hang was reported before.
    pub fn on_hang(&self, print: impl FnOnce() + Send + 'static) {
        let mut state = locked(&self.0);
        if !state.reported {
            state.on_hang = Some(Box::new(print));
        }
    }

    pub fn reported(&self) -> bool {
        locked(&self.0).reported
    }

    /// Stops the watchdog; returns whether no hang was reported.
    pub fn end(&self) -> bool {
        let mut state = locked(&self.0);
        state.over = true;
        !state.reported
    }
}

impl State {
    /// Reports a step that takes too long, once; returns whether the timeout is over.
    fn check(&mut self) -> bool {
        let took = self.since.elapsed();
        if took > self.timeout + GRACE && !self.warned {
            self.warned = true;
            tell_error(&format!(
                "trainer: rank {}: {}: not finished after {:.0} s",
                self.rank,
                self.doing,
                took.as_secs_f64()
            ));
            if let Some(print) = self.on_hang.take() {
                self.reported = true;
                print();
            }
        }
        took > self.timeout + LAST_GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_hang_is_reported_once_and_then_ended() {
        let said = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&said);
        let words: Box<dyn FnOnce() + Send> = Box::new(move || _ = counter.fetch_add(1, Ordering::SeqCst));
        let mut state = State {
            rank: 0,
            doing: "a test".into(),
            since: Instant::now(),
            timeout: Duration::ZERO,
            warned: false,
            reported: false,
            over: false,
            on_hang: Some(words),
        };
        assert!(!state.check());
        assert_eq!(said.load(Ordering::SeqCst), 0);
        state.since -= GRACE + Duration::from_secs(1);
        assert!(!state.check() && !state.check());
        assert_eq!(said.load(Ordering::SeqCst), 1);
        // A later hang is not reported again.
        let watch = Watch(Arc::new(Mutex::new(state)));
        let counter = Arc::clone(&said);
        watch.on_hang(move || _ = counter.fetch_add(1, Ordering::SeqCst));
        let mut state = locked(&watch.0);
        state.warned = false;
        assert!(state.reported && !state.check());
        assert_eq!(said.load(Ordering::SeqCst), 1);
        state.since -= LAST_GRACE;
        assert!(state.check());
    }
}
