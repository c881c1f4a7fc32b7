//! A fake CUDA driver (`libcuda.so.1`) with the functions that `src/comm/ffi/cuda.rs` calls, for machines without a
//! GPU.
//!
//! Device memory is host memory, and libtorch computes on the CPU: the calling thread acts as the null stream. The
//! host's work before it records an event there is complete, and making the null stream wait blocks the host. Every
//! other stream is a queue with its own thread, which sleeps for a random time before each work item, so that missing
//! waits show. Events order streams like CUDA's: a wait refers to the event's recording at the time of the call, an
//! event may be recorded again, and waiting for an event that was never recorded has no effect. Handles are numbers:
//! stale ones are refused (400), as are calls before `cuInit` (3) or without a current context (201).
//!
//! Environment:
//! - `FAKE_DELAY_US`: sleep of a stream before each work item in microseconds: `3000` (the default) is a random value
//!   from 0 to that, `500-2000` a range.
//! - `FAKE_SEED`: random seed of the delays, which also differ between GPUs; default 0.
//! - `FAKE_GPUS`: number of GPUs; default 8.
//!
//! Additional functions for the fake NCCL are below; no real driver has functions of these names.

mod describe;
mod driver;
mod event;
mod handles;
mod stream;

use driver::{Code, current, driver, fill, result};
use event::Event;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use stream::{Stream, Work};

type Handle = *mut c_void;

/// Its presence tells the program that device memory is host memory.
#[unsafe(no_mangle)]
pub extern "C" fn fake_memory_is_host() -> c_int {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    driver::initialise();
    0
}

/// # Safety
/// `count` is null or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller's word.
    result(driver().and_then(|driver| unsafe { fill(count, driver.gpus) }))
}

/// # Safety
/// `device` is null or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    // SAFETY: the caller's word.
    result(driver().and_then(|driver| driver.device(ordinal)).and_then(|found| unsafe { fill(device, found) }))
}

/// # Safety
/// `context` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> c_int {
    let context_of = |device: c_int| (device as usize + 1) as Handle;
    // SAFETY: the caller's word.
    result(driver().and_then(|driver| driver.device(device)).and_then(|d| unsafe { fill(context, context_of(d)) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> c_int {
    let device = (context as usize).checked_sub(1).and_then(|device| c_int::try_from(device).ok());
    let device = device.ok_or(Code::InvalidContext);
    let known = |device| driver()?.device(device).map_err(|_| Code::InvalidContext);
    result(device.and_then(known).map(driver::push_current))
}

/// # Safety
/// `context` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut Handle) -> c_int {
    let popped = driver::pop_current().map(|device| (device as usize + 1) as Handle);
    // SAFETY: the caller's word.
    result(popped.and_then(|popped| if context.is_null() { Ok(()) } else { unsafe { fill(context, popped) } }))
}

/// # Safety
/// `stream` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) -> c_int {
    let create = |device| Ok(driver()?.streams.add(Stream::start(device)?));
    // SAFETY: the caller's word.
    result(current().and_then(create).and_then(|handle| unsafe { fill(stream, handle as Handle) }))
}

/// Priorities from the least, 0, to the greatest: a lower number is a higher priority, as in CUDA.
const PRIORITIES: [c_int; 2] = [0, -5];

/// # Safety
/// `least` and `greatest` are null or point to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> c_int {
    let [low, high] = PRIORITIES;
    // SAFETY: the caller's word.
    result(current().and_then(|_| unsafe { fill(least, low).and_then(|()| fill(greatest, high)) }))
}

/// # Safety
/// `stream` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, priority: c_int) -> c_int {
    // The program's only stream carries collectives: anything but the highest priority is a mistake.
    if priority != PRIORITIES[1] {
        return result(Err(Code::InvalidValue));
    }
    // SAFETY: the caller's word.
    unsafe { cuStreamCreate(stream, flags) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> c_int {
    let wait = |()| {
        let event = driver()?.events.get(event as usize)?;
        match stream_of(stream)? {
            Some(stream) => stream.wait_for(&event),
            None => event.hold_host(),
        }
        Ok(())
    };
    result(current().map(drop).and_then(wait))
}

/// # Safety
/// `event` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, _flags: c_uint) -> c_int {
    let create = |_| Ok(driver()?.events.add(Arc::new(Event::default())));
    // SAFETY: the caller's word.
    result(current().and_then(create).and_then(|handle| unsafe { fill(event, handle as Handle) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> c_int {
    let record = |_| {
        let event = driver()?.events.get(event as usize)?;
        match stream_of(stream)? {
            Some(stream) => stream.record(&event),
            None => event.record_host(),
        }
        Ok(())
    };
    result(current().and_then(record))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> c_int {
    let query = |_| match driver()?.events.get(event as usize)?.is_reached() {
        true => Ok(()),
        false => Err(Code::NotReady),
    };
    result(current().and_then(query))
}

/// Removes the event at once; streams keep the recordings that they still wait for.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> c_int {
    result(driver().and_then(|driver| driver.events.remove(event as usize)))
}

/// # Safety
/// `text` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> c_int {
    let known: Result<&'static CStr, Code> = driver::text(code).ok_or(Code::InvalidValue);
    // SAFETY: the caller's word.
    result(known.and_then(|known| unsafe { fill(text, known.as_ptr()) }))
}

// ------------------------------------------------------------------------------------------- for the fake NCCL

/// State of a stream. The fake NCCL repeats the layout.
#[repr(C)]
pub struct StreamState {
    /// Number of queued work items.
    pub pushed: u64,
    /// Number of them that the host, as the null stream, has waited for.
    pub landed: u64,
    /// Whether it waits for the host's work since the last work item, by an event recorded since.
    pub follows: bool,
}

/// Returns the GPU of the calling thread's current context; -1 without one.
#[unsafe(no_mangle)]
pub extern "C" fn fake_current_device() -> c_int {
    current().unwrap_or(-1)
}

/// # Safety
/// `state` is null or points to a [`StreamState`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_stream_state(stream: Handle, state: *mut StreamState) -> c_int {
    let found = stream_of(stream).and_then(|stream| stream.ok_or(Code::InvalidHandle));
    // SAFETY: the caller's word.
    result(found.and_then(|stream| unsafe { fill(state, stream.state()) }))
}

/// Queues `function(argument)` in a stream.
///
/// # Safety
/// `function` may be called once with `argument` on another thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_stream_push(
    stream: Handle,
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> c_int {
    let found = stream_of(stream).and_then(|stream| stream.ok_or(Code::InvalidHandle));
    // SAFETY: the caller's word.
    result(found.map(|stream| stream.push(unsafe { Work::new(function, argument) })))
}

/// Returns the stream of a handle; `None` for the null stream and its other names (the legacy and the per-thread one).
fn stream_of(handle: Handle) -> Result<Option<Arc<Stream>>, Code> {
    match handle as usize {
        0..=2 => Ok(None),
        handle => driver()?.streams.get(handle).map(Some),
    }
}
