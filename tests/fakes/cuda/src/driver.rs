//! Global state of the driver: state after `cuInit`, result codes, the contexts of each thread.

use crate::event::Event;
use crate::handles::Handles;
use crate::stream::Stream;
use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Results other than success, with CUDA's numbers.
#[derive(Debug, Clone, Copy)]
pub enum Code {
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    InvalidDevice = 101,
    InvalidContext = 201,
    InvalidHandle = 400,
    NotReady = 600,
}

const TEXTS: [(Code, &CStr); 7] = [
    (Code::InvalidValue, c"invalid argument"),
    (Code::OutOfMemory, c"out of memory"),
    (Code::NotInitialized, c"initialization error"),
    (Code::InvalidDevice, c"invalid device ordinal"),
    (Code::InvalidContext, c"invalid device context"),
    (Code::InvalidHandle, c"invalid resource handle"),
    (Code::NotReady, c"device not ready"),
];

/// Returns the driver's text for a code.
pub fn text(code: c_int) -> Option<&'static CStr> {
    match code {
        0 => Some(c"no error"),
        _ => TEXTS.iter().find(|(known, _)| *known as c_int == code).map(|(_, text)| *text),
    }
}

/// Converts a result to the return value of a C function.
pub fn result(outcome: Result<(), Code>) -> c_int {
    outcome.map_or_else(|code| code as c_int, |()| 0)
}

/// Writes a value to the caller's pointer.
///
/// # Safety
/// `place` is null or valid for a write.
pub unsafe fn fill<T>(place: *mut T, value: T) -> Result<(), Code> {
    if place.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the caller's word.
    unsafe { place.write(value) };
    Ok(())
}

pub struct Driver {
    pub gpus: c_int,
    pub delay_us: RangeInclusive<u64>,
    pub seed: u64,
    pub streams: Handles<Stream>,
    pub events: Handles<Event>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Initializes the driver, reading the environment the first time.
pub fn initialise() {
    DRIVER.get_or_init(|| Driver {
        gpus: setting("FAKE_GPUS", 8, |text| text.parse().ok()),
        delay_us: setting("FAKE_DELAY_US", 0..=3000, range),
        seed: setting("FAKE_SEED", 0, |text| text.parse().ok()),
        streams: Handles::new(),
        events: Handles::new(),
    });
}

/// Returns the driver after `cuInit`.
pub fn driver() -> Result<&'static Driver, Code> {
    DRIVER.get().ok_or(Code::NotInitialized)
}

impl Driver {
    /// Returns the device with this index.
    pub fn device(&self, ordinal: c_int) -> Result<c_int, Code> {
        if (0..self.gpus).contains(&ordinal) { Ok(ordinal) } else { Err(Code::InvalidDevice) }
    }
}

fn setting<T>(name: &str, default: T, read: impl Fn(&str) -> Option<T>) -> T {
    match std::env::var(name) {
        Ok(text) => read(&text).unwrap_or_else(|| panic!("{name}={text}: see the fake libcuda for its values")),
        Err(_) => default,
    }
}

fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (least, most) = text.split_once('-').unwrap_or(("0", text));
    let range = least.parse().ok()?..=most.parse().ok()?;
    (!range.is_empty()).then_some(range)
}

thread_local! {
    /// The context stack of this thread, as GPU indices.
    static CONTEXTS: RefCell<Vec<c_int>> = const { RefCell::new(Vec::new()) };
}

pub fn push_current(device: c_int) {
    CONTEXTS.with_borrow_mut(|contexts| contexts.push(device));
}

pub fn pop_current() -> Result<c_int, Code> {
    CONTEXTS.with_borrow_mut(Vec::pop).ok_or(Code::InvalidContext)
}

/// Returns the GPU of the current context.
pub fn current() -> Result<c_int, Code> {
    driver()?;
    CONTEXTS.with_borrow(|contexts| contexts.last().copied()).ok_or(Code::InvalidContext)
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
