//! Ends the job when a GPU collective hangs.
//!
//! NCCL does not report the death of a rank on the same host, and a waiting kernel cannot be cancelled. So a thread
//! polls the events at the ends of all collectives. If none completes within the timeout, it asks the ranks over MPI
//! for their progress, reports which is late, and ends the job with exit code 5. An error of this rank's own GPU, which
//! the events also report, ends it with that error's code.

use crate::comm::Collective;
use crate::comm::ffi::cuda::Event;
use crate::comm::ffi::nccl::Communicator;
use crate::comm::job::name_ranks;
use crate::comm::journal::Journal;
use crate::error::{Error, Kind, Result};
use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(50);
/// Time within which the other ranks' watchdogs detect the same.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const TIMED_OUT: &str = "timed out after";
const NONE_LATE: &str = "all ranks had started it: check the network between the GPUs, and the GPUs";

/// Tracks all collectives of this rank. The thread ends with the last handle.
pub(super) struct Watchdog {
    watched: Arc<Watched>,
}

struct Watched {
    journal: Mutex<Journal>,
    flights: Mutex<VecDeque<Flight>>,
    /// In the order in which they were opened.
    communicators: Mutex<Vec<Arc<Communicator>>>,
}

struct Flight {
    sequence: u64,
    job: String,
    started: Instant,
    /// `None` while the host is still inside NCCL.
    end: Option<Arc<Event>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchdog {
    /// Starts the thread. `below` exchanges the progress of the ranks and ends the job.
    pub fn start(below: Arc<dyn Collective>, timeout: Duration) -> Result<Watchdog> {
        let watched = Arc::new(Watched {
            journal: Mutex::new(Journal::new(below.rank())),
            flights: Mutex::default(),
            communicators: Mutex::default(),
        });
        let weak = Arc::downgrade(&watched);
        thread::Builder::new().name("nccl-watchdog".to_string()).spawn(move || keep_watch(&weak, &*below, timeout))?;
        Ok(Watchdog { watched })
    }

    /// Also polls this communicator for errors.
    pub fn watch(&self, communicator: Arc<Communicator>) {
        locked(&self.watched.communicators).push(communicator);
    }

    /// Returns all communicators of this rank, in the order in which they were opened.
    pub fn communicators(&self) -> Vec<Arc<Communicator>> {
        locked(&self.watched.communicators).clone()
    }

    /// Records the start of an operation with other ranks; returns its number.
    pub fn begin(&self, job: &dyn Display) -> u64 {
        let sequence = locked(&self.watched.journal).start(job);
        let flight = Flight { sequence, job: job.to_string(), started: Instant::now(), end: None };
        locked(&self.watched.flights).push_back(flight);
        sequence
    }

    /// Records that it is queued on the GPU and ends at this event.
    pub fn expect(&self, sequence: u64, end: Arc<Event>) {
        if let Some(flight) = locked(&self.watched.flights).iter_mut().find(|flight| flight.sequence == sequence) {
            flight.end = Some(end);
        }
    }

    pub fn end(&self, sequence: u64) {
        locked(&self.watched.flights).retain(|flight| flight.sequence != sequence);
        locked(&self.watched.journal).finish(sequence);
    }
}

fn keep_watch(watched: &Weak<Watched>, below: &dyn Collective, timeout: Duration) {
    loop {
        thread::sleep(INTERVAL);
        let Some(watched) = watched.upgrade() else { return };
        if let Err(error) = watched.poll(timeout) {
            watched.report(below, &error);
            below.abort(error.kind().exit_code());
        }
    }
}

impl Watched {
    /// Records completed operations; returns an error if nothing completes or NCCL reports an error.
    fn poll(&self, timeout: Duration) -> Result<()> {
        let mut flights = locked(&self.flights);
        while let Some(flight) = flights.front() {
            let Some(end) = &flight.end else { break };
            if !end.reached().map_err(|e| e.context(format!("\"{}\"", flight.job)))? {
                break;
            }
            locked(&self.journal).finish(flight.sequence);
            flights.pop_front();
        }
        if let Some(flight) = flights.front() {
            let stalled = locked(&self.journal).stalled_since(flight.started).elapsed();
            if stalled > timeout {
                let (job, sequence, seconds) = (&flight.job, flight.sequence, stalled.as_secs_f64());
                return Err(Error::peer(format!("{job}, GPU collective {sequence}: {TIMED_OUT} {seconds:.1} s")));
            }
        }
        drop(flights);
        locked(&self.communicators).iter().try_for_each(|communicator| communicator.async_error())
    }

    fn report(&self, below: &dyn Collective, error: &Error) {
        let rank = below.rank();
        locked(&self.journal).dump();
        if error.kind() != Kind::Peer {
            // An error of this rank's own GPU: other ranks know no more.
            tracing::error!(rank, "rank {rank}: {error}");
            return;
        }
        let started = locked(&self.journal).started();
        let answers = below.roll_call(started as i64, TIME_LIMIT);
        let silent = crate::comm::silent_hosts();
        // NCCL's own error message needs no addition except a late rank.
        match verdict(&answers).or(error.to_string().contains(TIMED_OUT).then(|| NONE_LATE.to_string())) {
            Some(verdict) => tracing::error!(rank, "rank {rank}: {error}: {verdict}{silent}"),
            None => tracing::error!(rank, "rank {rank}: {error}{silent}"),
        }
    }
}

/// Returns which ranks are late, by the number of collectives that each responding rank has started; `None` if none.
fn verdict(answers: &[Option<i64>]) -> Option<String> {
    let ranks = |test: &dyn Fn(Option<i64>) -> bool| -> Vec<usize> {
        answers.iter().enumerate().filter(|(_, answer)| test(**answer)).map(|(rank, _)| rank).collect()
    };
    let most = answers.iter().flatten().max().copied().unwrap_or(0);
    let silent = ranks(&|answer| answer.is_none());
    let behind = ranks(&|answer| answer.is_some_and(|started| started < most));
    match (silent.is_empty(), behind.is_empty()) {
        (false, _) => Some(format!("no answer from {} (busy elsewhere, stopped or dead)", name_ranks(&silent))),
        (true, false) => Some(format!("{} had started fewer collectives than the others", name_ranks(&behind))),
        (true, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::job::Job;
    use crate::comm::solo::Solo;

    #[test]
    fn the_late_rank_is_named() {
        assert!(verdict(&[Some(5), None, Some(5)]).unwrap().starts_with("no answer from rank 1 "));
        assert!(verdict(&[Some(5), Some(5), Some(4)]).unwrap().starts_with("rank 2 had started fewer"));
        assert_eq!(verdict(&[Some(5), Some(5)]), None);
    }

    #[test]
    fn a_timeout_counts_from_the_last_progress() {
        let below: Arc<dyn Collective> = Arc::new(Solo::new(tch::Device::Cpu));
        let watchdog = Watchdog::start(below, Duration::from_secs(1000)).unwrap();
        let first = watchdog.begin(&Job::named("first"));
        let second = watchdog.begin(&Job::named("second"));
        let timeout = Duration::from_secs(1);
        thread::sleep(timeout);
        let error = watchdog.watched.poll(timeout).unwrap_err();
        assert_eq!(error.kind(), Kind::Peer);
        assert!(
            error.to_string().contains("first") && error.to_string().contains("GPU collective 0: timed out"),
            "{error}"
        );
        watchdog.end(first);
        assert!(watchdog.watched.poll(timeout).is_ok());
        watchdog.end(second);
        assert!(watchdog.watched.poll(Duration::ZERO).is_ok());
    }
}
