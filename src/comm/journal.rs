//! The last collectives of a rank, for the report when one of them hangs.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Instant;

const KEPT: usize = 64;

struct Entry {
    sequence: u64,
    job: String,
    started: Instant,
    finished: Option<Instant>,
}

/// Ring buffer of the last 64 collectives, and the time when one last completed.
pub(super) struct Journal {
    rank: usize,
    next: u64,
    entries: VecDeque<Entry>,
    progress: Instant,
}

impl Journal {
    pub fn new(rank: usize) -> Self {
        Journal { rank, next: 0, entries: VecDeque::with_capacity(KEPT), progress: Instant::now() }
    }

    /// Records the start of a job; returns its sequence number, from 0.
    pub fn start(&mut self, job: &dyn Display) -> u64 {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        let sequence = self.next;
        self.next += 1;
        self.entries.push_back(Entry { sequence, job: job.to_string(), started: Instant::now(), finished: None });
        sequence
    }

    pub fn finish(&mut self, sequence: u64) {
        self.progress = Instant::now();
        if let Some(entry) = self.entries.iter_mut().rev().find(|e| e.sequence == sequence) {
            entry.finished = Some(self.progress);
        }
    }

    /// Number of started collectives.
    pub fn started(&self) -> u64 {
        self.next
    }

    /// Returns since when the operation started at `started` has been the oldest one under way: a queue of slow
    /// operations is no timeout as long as operations complete.
    pub fn stalled_since(&self, started: Instant) -> Instant {
        self.progress.max(started)
    }

    /// Writes all entries to the log, oldest first.
    pub fn dump(&self) {
        let rank = self.rank;
        tracing::error!(rank, "the last {} collectives of rank {rank}:", self.entries.len());
        for Entry { sequence, job, started, finished } in &self.entries {
            let ago = started.elapsed().as_secs_f64();
            match finished {
                Some(end) => {
                    let took = (*end - *started).as_secs_f64() * 1e3;
                    tracing::error!(rank, "  #{sequence} {job}: started {ago:.1} s ago, took {took:.1} ms");
                }
                None => tracing::error!(rank, "  #{sequence} {job}: started {ago:.1} s ago, NOT FINISHED"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::job::Job;

    #[test]
    fn keeps_the_last_ones() {
        let mut journal = Journal::new(3);
        for i in 0..100 {
            assert_eq!(journal.start(&Job::finish()), i);
        }
        journal.finish(99);
        journal.finish(0); // no longer there: nothing to note
        assert_eq!(journal.started(), 100);
        assert_eq!(journal.entries.len(), KEPT);
        assert_eq!(journal.entries[0].sequence, 36);
        assert!(journal.entries[63].finished.is_some() && journal.entries[62].finished.is_none());
    }

    #[test]
    fn a_slow_queue_is_not_a_stall() {
        let mut journal = Journal::new(0);
        let sequence = journal.start(&Job::finish());
        let early = Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(5));
        journal.finish(sequence);
        assert!(journal.stalled_since(early) > early);
    }
}
