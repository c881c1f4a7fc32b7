//! The part of the CUDA driver API that orders NCCL against libtorch: a context, a stream, events.

use super::library::{Library, functions};
use crate::error::{Error, Result};
use crate::ffi::device;
use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUstream};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr::{null, null_mut};
use std::sync::Arc;

// Results are ints here, because values unknown to the bindings' enum would be undefined behavior.
functions!(Functions {
    fn cuInit(c_uint) -> c_int;
    fn cuDeviceGet(*mut CUdevice, c_int) -> c_int;
    fn cuDeviceGetCount(*mut c_int) -> c_int;
    fn cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice) -> c_int;
    fn cuCtxPushCurrent_v2(CUcontext) -> c_int;
    fn cuCtxPopCurrent_v2(*mut CUcontext) -> c_int;
    fn cuCtxGetStreamPriorityRange(*mut c_int, *mut c_int) -> c_int;
    fn cuStreamCreateWithPriority(*mut CUstream, c_uint, c_int) -> c_int;
    fn cuStreamWaitEvent(CUstream, CUevent, c_uint) -> c_int;
    fn cuEventCreate(*mut CUevent, c_uint) -> c_int;
    fn cuEventRecord(CUevent, CUstream) -> c_int;
    fn cuEventQuery(CUevent) -> c_int;
    fn cuEventDestroy_v2(CUevent) -> c_int;
    fn cuGetErrorString(c_int, *mut *const c_char) -> c_int;
});

/// A function that only the fake driver has (`tests/fakes/cuda`): device memory is host memory there.
const FAKE: &str = "fake_memory_is_host";
const NO_DEVICE: c_int = 100; // CUDA_ERROR_NO_DEVICE
const NOT_READY: c_int = 600; // CUDA_ERROR_NOT_READY
const STREAM_NON_BLOCKING: c_uint = 1; // CU_STREAM_NON_BLOCKING
const EVENT_DISABLE_TIMING: c_uint = 2; // CU_EVENT_DISABLE_TIMING

/// libtorch's compute stream as a driver handle. The default is the legacy default stream, which is libtorch's default.
#[derive(Clone, Copy)]
pub struct ComputeStream(CUstream);

// SAFETY: a handle, which the driver lets any thread use.
unsafe impl Send for ComputeStream {}
// SAFETY: the same.
unsafe impl Sync for ComputeStream {}

impl Default for ComputeStream {
    fn default() -> Self {
        ComputeStream(null_mut())
    }
}

/// A GPU's primary context, which libtorch uses, with a separate stream in it.
pub struct Gpu {
    cuda: Functions,
    context: CUcontext,
    stream: CUstream,
}

// SAFETY: the driver is thread-safe; the handles live as long as the process.
unsafe impl Send for Gpu {}
// SAFETY: the same.
unsafe impl Sync for Gpu {}

/// Loads the driver library.
///
/// # Errors
/// If there is no NVIDIA driver.
pub(super) fn library() -> Result<Library> {
    Library::open("libcuda.so.1").map_err(|e| {
        Error::other(format!("there is no NVIDIA driver on this machine: libcuda.so.1 was not found ({e})"))
    })
}

fn load() -> Result<Functions> {
    let library = library()?;
    let missing =
        |names: Vec<_>| Error::other(format!("libcuda.so.1 lacks {}: update the NVIDIA driver", names.join(", ")));
    Functions::load(library).map_err(missing)
}

/// Returns the number of GPUs of the fake driver, whose device memory is host memory, so that libtorch computes on the
/// CPU. `None` if there is a real driver or none.
pub fn fake_gpus() -> Result<Option<usize>> {
    if library().ok().and_then(|library| library.symbol(FAKE)).is_none() {
        return Ok(None);
    }
    count().map(Some)
}

/// Returns the number of visible GPUs; zero is not an error.
pub(super) fn count() -> Result<usize> {
    let (cuda, mut gpus) = (load()?, 0);
    // SAFETY: no preconditions; a pointer to a live variable.
    unsafe {
        match (cuda.cuInit)(0) {
            NO_DEVICE => return Ok(0),
            code => cuda.check("cuInit", code)?,
        }
        cuda.check("cuDeviceGetCount", (cuda.cuDeviceGetCount)(&mut gpus))?;
    }
    Ok(gpus as usize)
}

/// Returns the driver's handle of a GPU. [`count`] was called before.
pub(super) fn device(ordinal: usize) -> Result<CUdevice> {
    let (cuda, mut device) = (load()?, 0);
    // SAFETY: a pointer to a live variable.
    cuda.check("cuDeviceGet", unsafe { (cuda.cuDeviceGet)(&mut device, ordinal as c_int) })?;
    Ok(device)
}

/// Returns the error for a driver code.
pub(super) fn check(call: &str, code: c_int) -> Result<()> {
    load()?.check(call, code)
}

/// Returns the error if the driver cannot be initialized.
pub fn check_driver() -> Result<()> {
    let cuda = load()?;
    // SAFETY: no preconditions.
    cuda.check("cuInit", unsafe { (cuda.cuInit)(0) })
}

impl Functions {
    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut text = null();
        // SAFETY: writes a pointer to a constant C string, or leaves null for a code that it does not know.
        unsafe { (self.cuGetErrorString)(code, &mut text) };
        let text = match text.is_null() {
            true => "unknown error".into(),
            // SAFETY: see above.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
        };
        Err(device::error(&format!("{call} failed: {text} (CUDA error {code})")))
    }
}

impl Gpu {
    /// Opens the GPU with this index, with a stream that does not wait for the default stream. It has the highest priority,
    /// so that the kernels of collectives, which other ranks wait for, do not queue behind those of computation.
    ///
    /// # Errors
    /// If there is no driver, or no such GPU.
    pub fn open(ordinal: usize) -> Result<Arc<Gpu>> {
        let cuda = load()?;
        let (mut device, mut context, mut stream) = (0, null_mut(), null_mut());
        // SAFETY: pointers to live variables, in the order that the driver asks for.
        unsafe {
            cuda.check("cuInit", (cuda.cuInit)(0))?;
            cuda.check("cuDeviceGet", (cuda.cuDeviceGet)(&mut device, ordinal as c_int))?;
            cuda.check("cuDevicePrimaryCtxRetain", (cuda.cuDevicePrimaryCtxRetain)(&mut context, device))?;
            let mut gpu = Gpu { cuda, context, stream };
            gpu.inside(|cuda| {
                let (mut least, mut greatest) = (0, 0);
                let found = (cuda.cuCtxGetStreamPriorityRange)(&mut least, &mut greatest);
                cuda.check("cuCtxGetStreamPriorityRange", found)?;
                let made = (cuda.cuStreamCreateWithPriority)(&mut stream, STREAM_NON_BLOCKING, greatest);
                cuda.check("cuStreamCreateWithPriority", made)
            })?;
            gpu.stream = stream;
            Ok(Arc::new(gpu))
        }
    }

    pub fn stream(&self) -> CUstream {
        self.stream
    }

    /// Runs `work` with this GPU as the thread's current context, and restores the previous one.
    pub fn inside<T>(&self, work: impl FnOnce(&Functions) -> Result<T>) -> Result<T> {
        // SAFETY: a context that is retained for good.
        self.cuda.check("cuCtxPushCurrent", unsafe { (self.cuda.cuCtxPushCurrent_v2)(self.context) })?;
        let result = work(&self.cuda);
        let mut popped = null_mut();
        // SAFETY: pops what was pushed.
        unsafe { (self.cuda.cuCtxPopCurrent_v2)(&mut popped) };
        result
    }

    /// Makes work queued in our stream from now on wait for the work now in the compute stream.
    pub fn follow(self: &Arc<Self>, compute: ComputeStream) -> Result<()> {
        let event = self.mark(compute.0)?;
        // SAFETY: stream and event are alive; the driver keeps what it needs of the event.
        self.inside(|cuda| unsafe {
            cuda.check("cuStreamWaitEvent", (cuda.cuStreamWaitEvent)(self.stream, event.event, 0))
        })
    }

    /// Returns an event for the end of the work now in our stream.
    pub fn end(self: &Arc<Self>) -> Result<Event> {
        self.mark(self.stream)
    }

    fn mark(self: &Arc<Self>, stream: CUstream) -> Result<Event> {
        let mut event = null_mut();
        self.inside(|cuda| {
            // SAFETY: a pointer to a live variable.
            cuda.check("cuEventCreate", unsafe { (cuda.cuEventCreate)(&mut event, EVENT_DISABLE_TIMING) })
        })?;
        let event = Event { gpu: self.clone(), event };
        // SAFETY: a live event and a live stream of the same context.
        self.inside(|cuda| unsafe { cuda.check("cuEventRecord", (cuda.cuEventRecord)(event.event, stream)) })?;
        Ok(event)
    }
}

/// A point in a stream.
pub struct Event {
    gpu: Arc<Gpu>,
    event: CUevent,
}

// SAFETY: the driver is thread-safe.
unsafe impl Send for Event {}
// SAFETY: the same.
unsafe impl Sync for Event {}

impl Event {
    /// Whether the GPU has reached it.
    pub fn reached(&self) -> Result<bool> {
        self.gpu.inside(|cuda| {
            // SAFETY: a live event.
            match unsafe { (cuda.cuEventQuery)(self.event) } {
                NOT_READY => Ok(false),
                code => cuda.check("a kernel before this point", code).map(|()| true),
            }
        })
    }

    /// Makes work queued in the compute stream from now on wait for this point. The host does not wait.
    pub fn hold(&self, compute: ComputeStream) -> Result<()> {
        // SAFETY: a live event and stream.
        self.gpu.inside(|cuda| unsafe {
            cuda.check("cuStreamWaitEvent", (cuda.cuStreamWaitEvent)(compute.0, self.event, 0))
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, and the driver defers the destruction while the event is in use.
        let _ = self.gpu.inside(|cuda| unsafe { cuda.check("cuEventDestroy", (cuda.cuEventDestroy_v2)(self.event)) });
    }
}
