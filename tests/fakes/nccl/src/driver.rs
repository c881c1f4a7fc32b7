//! The part of the fake CUDA driver that the fake NCCL uses; it is loaded by the process that loads NCCL.

use crate::failure::{Code, Failure, Outcome};
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

/// State of a stream; same layout as in the fake driver.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamState {
    /// Number of queued work items.
    pub pushed: u64,
    /// Number of them that the null stream has waited for.
    pub landed: u64,
    /// Whether it waits for the null stream since the last work item.
    pub follows: bool,
}

struct Driver {
    current_device: extern "C" fn() -> c_int,
    stream_state: unsafe extern "C" fn(*mut c_void, *mut StreamState) -> c_int,
    stream_push: unsafe extern "C" fn(*mut c_void, extern "C" fn(*mut c_void), *mut c_void) -> c_int,
}

fn driver() -> Outcome<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    let find = || {
        // SAFETY: the fake driver's functions of these names have these types.
        unsafe {
            Some(Driver {
                current_device: std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(symbol(
                    c"fake_current_device",
                )?),
                stream_state: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut c_void, *mut StreamState) -> c_int,
                >(symbol(c"fake_stream_state")?),
                stream_push: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut c_void, extern "C" fn(*mut c_void), *mut c_void) -> c_int,
                >(symbol(c"fake_stream_push")?),
            })
        }
    };
    let missing = || Failure::new(Code::UnhandledCudaError, "the fake libcuda.so.1 is not loaded");
    DRIVER.get_or_init(find).as_ref().ok_or_else(missing)
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a C string; RTLD_DEFAULT needs no handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Returns the GPU of the calling thread's context.
pub fn current_device() -> Outcome<u32> {
    let device = (driver()?.current_device)();
    u32::try_from(device).map_err(|_| Failure::new(Code::UnhandledCudaError, "no CUDA context is current"))
}

pub fn stream_state(stream: usize) -> Outcome<StreamState> {
    let mut state = StreamState::default();
    // SAFETY: a pointer to a live variable; a handle, which the driver checks.
    let code = unsafe { (driver()?.stream_state)(stream as *mut c_void, &mut state) };
    if code == 0 { Ok(state) } else { Err(no_stream(stream, code)) }
}

/// Queues work in a stream.
pub fn push(stream: usize, work: Box<dyn FnOnce() + Send>) -> Outcome<()> {
    extern "C" fn run(work: *mut c_void) {
        // SAFETY: the pointer was made below, and the stream runs it once.
        unsafe { Box::from_raw(work.cast::<Box<dyn FnOnce() + Send>>())() }
    }
    let driver = driver()?;
    let work = Box::into_raw(Box::new(work));
    // SAFETY: `run` may be called once with `work`, on any thread: the closure is `Send`.
    let code = unsafe { (driver.stream_push)(stream as *mut c_void, run, work.cast()) };
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the stream refused it: it is still ours.
    drop(unsafe { Box::from_raw(work) });
    Err(no_stream(stream, code))
}

fn no_stream(stream: usize, code: c_int) -> Failure {
    let text = format!(
        "{stream:#x} is not a stream of the fake driver (CUDA error {code}); it does not run in the null stream"
    );
    Failure::argument(text)
}
