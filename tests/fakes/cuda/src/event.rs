//! Events: points in streams to wait for.

use crate::driver::locked;
use crate::stream::Stream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

static CLOCK: AtomicU64 = AtomicU64::new(0);

/// Returns a new timestamp that orders the host's actions over all threads.
pub fn now() -> u64 {
    CLOCK.fetch_add(1, Ordering::SeqCst) + 1
}

/// Position of a recording.
pub enum Origin {
    /// In the null stream, at this timestamp.
    Host { at: u64 },
    /// In a stream, after this number of work items.
    Stream { stream: Arc<Stream>, pushed: u64 },
}

/// One recording of an event.
pub struct Recording {
    pub origin: Origin,
    reached: Mutex<bool>,
    changed: Condvar,
}

impl Recording {
    pub fn new(origin: Origin) -> Arc<Recording> {
        // The host's work is complete when it records.
        let reached = matches!(origin, Origin::Host { .. });
        Arc::new(Recording { origin, reached: Mutex::new(reached), changed: Condvar::new() })
    }

    /// Marks the recording as reached.
    pub fn reach(&self) {
        *locked(&self.reached) = true;
        self.changed.notify_all();
    }

    pub fn is_reached(&self) -> bool {
        *locked(&self.reached)
    }

    /// Blocks the calling thread until the stream has reached it.
    pub fn wait(&self) {
        let reached = self.changed.wait_while(locked(&self.reached), |reached| !*reached);
        drop(reached.unwrap_or_else(PoisonError::into_inner));
    }
}

/// An event: its latest recording, if it was ever recorded.
#[derive(Default)]
pub struct Event(Mutex<Option<Arc<Recording>>>);

impl Event {
    pub fn set(&self, recording: Arc<Recording>) {
        *locked(&self.0) = Some(recording);
    }

    /// Returns the recording that a wait called now refers to.
    pub fn latest(&self) -> Option<Arc<Recording>> {
        locked(&self.0).clone()
    }

    pub fn record_host(&self) {
        self.set(Recording::new(Origin::Host { at: now() }));
    }

    pub fn is_reached(&self) -> bool {
        self.latest().is_none_or(|recording| recording.is_reached())
    }

    /// Making the null stream wait blocks the host.
    pub fn hold_host(&self) {
        let Some(recording) = self.latest() else { return };
        recording.wait();
        if let Origin::Stream { stream, pushed } = &recording.origin {
            stream.land(*pushed);
        }
    }
}
