//! State shared by the MPI thread and the other threads of the rank.

use crate::comm::journal::Journal;
use crate::error::Result;
use std::sync::atomic::AtomicUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) struct Shared {
    pub timeout: Duration,
    pub journal: Mutex<Journal>,
    /// Number of threads inside `wait`.
    pub waiting: AtomicUsize,
}

impl Shared {
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of an operation.
#[derive(Default)]
pub(super) struct Outcome {
    result: Mutex<Option<Result<()>>>,
    changed: Condvar,
}

impl Outcome {
    /// Keep the first result.
    pub fn set(&self, result: Result<()>) {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(result);
        self.changed.notify_all();
    }

    pub fn wait(&self, at_most: Duration) -> Option<Result<()>> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(result, at_most, |result| result.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}
