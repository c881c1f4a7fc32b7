//! Ends the job when a GPU collective does not come back.
//!
//! NCCL does not report the death of a rank on the same host, and a kernel that waits for it cannot be called back. So
//! a thread looks at the events at the ends of all collectives; when none has been reached for the timeout it asks
//! over MPI how far each rank has come, says which is late, and ends the job with exit code 5. An error of this rank's
//! own GPU, which the events tell too, ends it with that error's code.

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
/// The other ranks' watchdogs notice the same within this time.
const PATIENCE: Duration = Duration::from_secs(5);
const TIMED_OUT: &str = "timed out after";
const NOBODY_LATE: &str = "all ranks had started it: look at the network between the GPUs, and at the GPUs";

/// Knows all collectives of this rank. The thread ends with the last handle.
pub(super) struct Watchdog {
    watched: Arc<Watched>,
}

struct Watched {
    journal: Mutex<Journal>,
    flights: Mutex<VecDeque<Flight>>,
    communicator: Mutex<Option<Arc<Communicator>>>,
}

struct Flight {
    sequence: u64,
    job: String,
    started: Instant,
    /// None while the host is still inside NCCL.
    end: Option<Arc<Event>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchdog {
    /// Starts the thread. `below` carries the questions to the other ranks and ends the job.
    pub fn start(below: Arc<dyn Collective>, timeout: Duration) -> Result<Watchdog> {
        let watched = Arc::new(Watched {
            journal: Mutex::new(Journal::new(below.rank())),
            flights: Mutex::default(),
            communicator: Mutex::default(),
        });
        let weak = Arc::downgrade(&watched);
        thread::Builder::new().name("nccl-watchdog".to_string()).spawn(move || keep_watch(&weak, &*below, timeout))?;
        Ok(Watchdog { watched })
    }

    /// Asks this communicator for errors, too.
    pub fn watch(&self, communicator: Arc<Communicator>) {
        *locked(&self.watched.communicator) = Some(communicator);
    }

    /// Something starts that other ranks take part in; returns its number.
    pub fn begin(&self, job: &dyn Display) -> u64 {
        let sequence = locked(&self.watched.journal).start(job);
        let flight = Flight { sequence, job: job.to_string(), started: Instant::now(), end: None };
        locked(&self.watched.flights).push_back(flight);
        sequence
    }

    /// It is on the GPU now, and over at this event.
    pub fn expect(&self, sequence: u64, end: Arc<Event>) {
        if let Some(flight) = locked(&self.watched.flights).iter_mut().find(|flight| flight.sequence == sequence) {
            flight.end = Some(end);
        }
    }

    /// It is over.
    pub fn end(&self, sequence: u64) {
        locked(&self.watched.flights).retain(|flight| flight.sequence != sequence);
        locked(&self.watched.journal).finish(sequence);
    }
}

fn keep_watch(watched: &Weak<Watched>, below: &dyn Collective, timeout: Duration) {
    loop {
        thread::sleep(INTERVAL);
        let Some(watched) = watched.upgrade() else { return };
        if let Err(error) = watched.look(timeout) {
            watched.report(below, &error);
            below.abort(error.kind().exit_code());
        }
    }
}

impl Watched {
    /// Takes note of what is over; an error when nothing moves or NCCL has noticed something.
    fn look(&self, timeout: Duration) -> Result<()> {
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
        locked(&self.communicator).as_ref().map_or(Ok(()), |communicator| communicator.async_error())
    }

    fn report(&self, below: &dyn Collective, error: &Error) {
        let rank = below.rank();
        locked(&self.journal).dump();
        if error.kind() != Kind::Peer {
            // This rank's own GPU: nobody else knows more.
            tracing::error!(rank, "rank {rank}: {error}");
            return;
        }
        let started = locked(&self.journal).started();
        let answers = below.roll_call(started as i64, PATIENCE);
        let silent = crate::comm::silent_hosts();
        // Of an error that NCCL explains itself, only a rank that is late is news.
        match verdict(&answers).or(error.to_string().contains(TIMED_OUT).then(|| NOBODY_LATE.to_string())) {
            Some(verdict) => tracing::error!(rank, "rank {rank}: {error}: {verdict}{silent}"),
            None => tracing::error!(rank, "rank {rank}: {error}{silent}"),
        }
    }
}

/// Who is late, from the number of collectives that each rank has started, as far as ranks have answered; `None` if
/// nobody is.
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
        let timeout = Duration::from_millis(200);
        thread::sleep(timeout);
        let error = watchdog.watched.look(timeout).unwrap_err();
        assert_eq!(error.kind(), Kind::Peer);
        assert!(
            error.to_string().contains("first") && error.to_string().contains("GPU collective 0: timed out"),
            "{error}"
        );
        watchdog.end(first);
        assert!(watchdog.watched.look(timeout).is_ok());
        watchdog.end(second);
        assert!(watchdog.watched.look(Duration::ZERO).is_ok());
    }
}
