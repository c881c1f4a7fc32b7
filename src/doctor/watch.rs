//! Ends the doctor where something hangs that no collective's timeout covers: the start of MPI, a driver, a dead file
//! system.

use crate::error::Kind;
use crate::observe::logs::tell_error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);
/// A collective's own timeout comes first: it knows who is late.
pub const GRACE: Duration = Duration::from_millis(1500);
/// NCCL's watchdog ends the job: a while after rank 0 has said what it knows.
pub const GRACE_OF_NCCL: Duration = Duration::from_secs(3);
/// The end, if nobody else made it.
const LAST_GRACE: Duration = Duration::from_secs(15);

/// Knows what the doctor is doing, and for how long.
pub struct Watch(Arc<Mutex<State>>);

struct State {
    rank: usize,
    doing: String,
    since: Instant,
    patience: Duration,
    told: bool,
    /// Whether the last words were said.
    spoke: bool,
    over: bool,
    /// What is said before the end.
    last_words: Option<Box<dyn FnOnce() + Send>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Starts; `abort` ends the process, and with it the job.
    pub fn start(rank: usize, patience: Duration, abort: fn(i32) -> !) -> std::io::Result<Watch> {
        let state = State {
            rank,
            doing: String::new(),
            since: Instant::now(),
            patience,
            told: false,
            spoke: false,
            over: false,
            last_words: None,
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
                if state.look() {
                    drop(state);
                    abort(Kind::Peer.exit_code());
                }
            }
        })?;
        Ok(Watch(state))
    }

    /// Something new begins.
    pub fn doing(&self, what: impl Into<String>) {
        let mut state = locked(&self.0);
        (state.doing, state.since, state.told) = (what.into(), Instant::now(), false);
    }

    /// The number of this rank, once it is known.
    pub fn rank(&self, rank: usize) {
        locked(&self.0).rank = rank;
    }

    /// What to say if something hangs from now on, unless last words were said before.
    pub fn last_words(&self, words: impl FnOnce() + Send + 'static) {
        let mut state = locked(&self.0);
        if !state.spoke {
            state.last_words = Some(Box::new(words));
        }
    }

    /// Whether the last words were said.
    pub fn spoke(&self) -> bool {
        locked(&self.0).spoke
    }

    /// Nothing can hang any more. Whether the last words are still unsaid.
    pub fn end(&self) -> bool {
        let mut state = locked(&self.0);
        state.over = true;
        !state.spoke
    }
}

impl State {
    /// Says that something takes too long, once; true when it is time to end.
    fn look(&mut self) -> bool {
        let took = self.since.elapsed();
        if took > self.patience + GRACE && !self.told {
            self.told = true;
            tell_error(&format!(
                "trainer: rank {}: {}: not done after {:.0} s",
                self.rank,
                self.doing,
                took.as_secs_f64()
            ));
            if let Some(words) = self.last_words.take() {
                self.spoke = true;
                words();
            }
        }
        took > self.patience + LAST_GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn what_hangs_is_told_once_and_then_ended() {
        let said = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&said);
        let words: Box<dyn FnOnce() + Send> = Box::new(move || _ = counter.fetch_add(1, Ordering::SeqCst));
        let mut state = State {
            rank: 0,
            doing: "a test".into(),
            since: Instant::now(),
            patience: Duration::ZERO,
            told: false,
            spoke: false,
            over: false,
            last_words: Some(words),
        };
        assert!(!state.look());
        assert_eq!(said.load(Ordering::SeqCst), 0);
        state.since -= GRACE + Duration::from_secs(1);
        assert!(!state.look() && !state.look());
        assert_eq!(said.load(Ordering::SeqCst), 1);
        // What hangs after that finds all said.
        let watch = Watch(Arc::new(Mutex::new(state)));
        let counter = Arc::clone(&said);
        watch.last_words(move || _ = counter.fetch_add(1, Ordering::SeqCst));
        let mut state = locked(&watch.0);
        state.told = false;
        assert!(state.spoke && !state.look());
        assert_eq!(said.load(Ordering::SeqCst), 1);
        state.since -= LAST_GRACE;
        assert!(state.look());
    }
}
