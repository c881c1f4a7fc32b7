//! Streams: queues of work, each with a thread that is never in a hurry.

use crate::StreamState;
use crate::driver::{Code, driver, locked};
use crate::event::{Event, Origin, Recording, now};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A C function and what it is called with.
pub struct Work {
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
}

// SAFETY: whoever makes one says that another thread may run it.
unsafe impl Send for Work {}

impl Work {
    /// # Safety
    /// `function` may be called once with `argument` on another thread.
    pub unsafe fn new(function: extern "C" fn(*mut c_void), argument: *mut c_void) -> Work {
        Work { function, argument }
    }

    fn run(self) {
        (self.function)(self.argument);
    }
}

enum Task {
    Work(Work),
    Wait(Arc<Recording>),
    Reach(Arc<Recording>),
}

/// A stream other than the null stream. It lives as long as the process.
pub struct Stream {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    pushed: u64,
    landed: u64,
    /// When the latest piece of work was pushed.
    pushed_at: u64,
    /// The latest moment of the host that the stream was made to wait for.
    follows: u64,
}

impl Stream {
    /// A new stream of this GPU, with its thread.
    pub fn start(device: c_int) -> Result<Arc<Stream>, Code> {
        static STREAMS: AtomicU64 = AtomicU64::new(0);
        let driver = driver()?;
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        let seed = driver.seed.wrapping_add(number << 32).wrapping_add(device as u64);
        let mut delays = Delays { range: driver.delay_us.clone(), state: seed };
        let stream = Arc::new(Stream { state: Mutex::default(), more: Condvar::new() });
        let queue = stream.clone();
        let work = move || {
            loop {
                queue.next().run(&mut delays);
            }
        };
        thread::Builder::new().name(format!("stream-{number}")).spawn(work).map_err(|_| Code::OutOfMemory)?;
        Ok(stream)
    }

    fn next(&self) -> Task {
        let state = self.more.wait_while(locked(&self.state), |state| state.queue.is_empty());
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.queue.pop_front().expect("it is not empty")
    }

    fn put(&self, state: &mut State, task: Task) {
        state.queue.push_back(task);
        self.more.notify_one();
    }

    pub fn push(&self, work: Work) {
        let mut state = locked(&self.state);
        state.pushed += 1;
        state.pushed_at = now();
        self.put(&mut state, Task::Work(work));
    }

    /// What comes later waits for the event.
    pub fn wait_for(&self, event: &Event) {
        let Some(recording) = event.latest() else { return };
        let mut state = locked(&self.state);
        if let Origin::Host { at } = recording.origin {
            state.follows = state.follows.max(at);
        }
        self.put(&mut state, Task::Wait(recording));
    }

    /// Records the event at the end of what is queued now.
    pub fn record(self: &Arc<Self>, event: &Event) {
        let mut state = locked(&self.state);
        let recording = Recording::new(Origin::Stream { stream: self.clone(), pushed: state.pushed });
        event.set(recording.clone());
        self.put(&mut state, Task::Reach(recording));
    }

    /// The host has waited for so many pieces of work.
    pub fn land(&self, pushed: u64) {
        let mut state = locked(&self.state);
        state.landed = state.landed.max(pushed);
    }

    pub fn state(&self) -> StreamState {
        let state = locked(&self.state);
        StreamState { pushed: state.pushed, landed: state.landed, follows: state.follows > state.pushed_at }
    }
}

impl Task {
    fn run(self, delays: &mut Delays) {
        match self {
            Task::Work(work) => {
                thread::sleep(delays.next());
                work.run();
            }
            Task::Wait(recording) => recording.wait(),
            Task::Reach(recording) => recording.reach(),
        }
    }
}

/// Pseudo-random times (SplitMix64).
struct Delays {
    range: RangeInclusive<u64>,
    state: u64,
}

impl Delays {
    fn next(&mut self) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = self.range.end() - self.range.start() + 1;
        Duration::from_micros(self.range.start() + z % span)
    }
}
