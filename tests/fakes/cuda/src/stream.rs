//! Streams: work queues, each with a deliberately slow thread.

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

/// A C function and its argument.
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

/// A stream other than the null stream. It exists until the process ends.
pub struct Stream {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    pushed: u64,
    landed: u64,
    /// Timestamp of the latest work item.
    pushed_at: u64,
    /// The latest timestamp of the host that the stream waits for.
    follows: u64,
}

impl Stream {
    /// Creates a stream of this GPU with its thread.
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

    /// Makes later work wait for the event.
    pub fn wait_for(&self, event: &Event) {
        let Some(recording) = event.latest() else { return };
        let mut state = locked(&self.state);
        if let Origin::Host { at } = recording.origin {
            state.follows = state.follows.max(at);
        }
        self.put(&mut state, Task::Wait(recording));
    }

    /// Records the event after the work queued now.
    pub fn record(self: &Arc<Self>, event: &Event) {
        let mut state = locked(&self.state);
        let recording = Recording::new(Origin::Stream { stream: self.clone(), pushed: state.pushed });
        event.set(recording.clone());
        self.put(&mut state, Task::Reach(recording));
    }

    /// Records that the host has waited for this number of work items.
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

/// Pseudo-random delays (SplitMix64).
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::initialise;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Work that ends on a signal.
    extern "C" fn until_told(gate: *mut c_void) {
        // SAFETY: made by `slow`, and run once.
        let gate = unsafe { Box::from_raw(gate.cast::<Receiver<()>>()) };
        _ = gate.recv();
    }

    fn stream() -> Arc<Stream> {
        initialise();
        Stream::start(0).unwrap()
    }

    /// Queues such work in a stream; it ends when the sender is dropped.
    fn slow(stream: &Stream) -> Sender<()> {
        let (tell, told) = channel();
        // SAFETY: the receiver may go to another thread, and is taken there once.
        stream.push(unsafe { Work::new(until_told, Box::into_raw(Box::new(told)).cast()) });
        tell
    }

    fn is_reached_soon(event: &Event) -> bool {
        (0..400).any(|_| {
            thread::sleep(Duration::from_millis(1));
            event.is_reached()
        })
    }

    #[test]
    fn streams_run_by_themselves_and_events_order_them() {
        let (first, second) = (stream(), stream());
        let (event, end) = (Event::default(), Event::default());
        let gate = slow(&first);
        first.record(&event);
        second.wait_for(&event);
        second.record(&end);
        assert!(!is_reached_soon(&event) && !end.is_reached(), "the first stream is not done");
        drop(gate);
        end.hold_host();
        assert!(event.is_reached() && end.is_reached());
    }

    #[test]
    fn a_wait_is_for_the_recording_of_its_time() {
        let (first, second, third) = (stream(), stream(), stream());
        let (event, end) = (Event::default(), Event::default());
        assert!(event.is_reached(), "one that was never recorded holds nobody up");
        second.wait_for(&event);
        first.record(&event);
        second.wait_for(&event);
        let gate = slow(&third);
        third.record(&event); // later than the waits
        second.record(&end);
        end.hold_host();
        assert!(!event.is_reached(), "its latest recording is the third stream's");
        drop((gate, event));
    }

    #[test]
    fn what_the_host_waited_for_has_landed() {
        let stream = stream();
        let (event, host) = (Event::default(), Event::default());
        drop(slow(&stream));
        stream.record(&event);
        drop(slow(&stream));
        event.hold_host();
        let state = stream.state();
        assert_eq!((state.pushed, state.landed, state.follows), (2, 1, false));
        host.record_host();
        assert!(!stream.state().follows, "an event that nobody waits for orders nothing");
        stream.wait_for(&host);
        assert!(stream.state().follows);
        drop(slow(&stream));
        stream.wait_for(&host);
        assert!(!stream.state().follows, "what the host did since the last work is not covered");
    }
}
