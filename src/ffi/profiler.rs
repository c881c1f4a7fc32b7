//! libtorch's profiler (Kineto): records the host and the GPU, with named ranges.

use super::{Message, check};
use crate::error::{Error, Result};
use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    fn trainer_profiler_start() -> Message;
    fn trainer_profiler_stop(path: *const c_char) -> Message;
    fn trainer_range_begin(name: *const c_char, range: *mut *mut c_void) -> Message;
    fn trainer_range_end(range: *mut c_void);
}

static RECORDS: AtomicBool = AtomicBool::new(false);

/// Starts recording the calling thread, the backward passes that it starts, and the GPUs of this process.
///
/// # Errors
/// libtorch's, for example if it is already recording.
pub fn start() -> Result<()> {
    // SAFETY: no arguments.
    check(unsafe { trainer_profiler_start() })?;
    RECORDS.store(true, Ordering::Relaxed);
    Ok(())
}

/// Stops recording, on the thread that started it, and writes `path` in Chrome's trace format (JSON), which
/// `chrome://tracing`, Perfetto and TensorBoard read. Replaces an existing file.
///
/// # Errors
/// If the path cannot be written; libtorch's.
pub fn stop(path: &Path) -> Result<()> {
    RECORDS.store(false, Ordering::Relaxed);
    let name = path.as_os_str().as_encoded_bytes();
    let name =
        CString::new(name).map_err(|_| Error::input(format!("{}: the path contains a NUL byte", path.display())))?;
    // Kineto only logs a file that it cannot write.
    std::fs::write(path, "").map_err(|e| Error::other(format!("{}: {e}", path.display())))?;
    // SAFETY: a C string.
    check(unsafe { trainer_profiler_stop(name.as_ptr()) })
}

/// Whether a recording is active.
pub fn is_recording() -> bool {
    RECORDS.load(Ordering::Relaxed)
}

/// A named range of the recording, from [`range`] until it is dropped on the same thread.
#[derive(Debug)]
#[must_use = "the range ends when this is dropped"]
pub struct Range {
    begun: *mut c_void,
    _not_send: PhantomData<*mut c_void>,
}

/// Starts a named range if a recording is active; `name` is not called otherwise.
pub fn range(name: impl FnOnce() -> String) -> Option<Range> {
    if !is_recording() {
        return None;
    }
    let name = CString::new(name()).ok()?;
    let mut begun = null_mut();
    // SAFETY: a C string and a pointer to a live variable.
    check(unsafe { trainer_range_begin(name.as_ptr(), &mut begun) }).ok()?;
    Some(Range { begun, _not_send: PhantomData })
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: begun by `range` on this thread, ended once.
        unsafe { trainer_range_end(self.begun) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_trace_has_ranges_and_operations() {
        assert!(range(|| unreachable!("nothing records")).is_none());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        start().unwrap();
        {
            let _range = range(|| "forward layer 3".to_owned());
            let x = Tensor::ones([20, 20], (Kind::Float, Device::Cpu));
            _ = x.matmul(&x);
        }
        stop(&path).unwrap();
        let trace: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let time = |name: &str| {
            let event = events.iter().find(|event| event["name"] == name).unwrap_or_else(|| panic!("no {name}"));
            let number = |key: &str| event[key].as_f64().unwrap();
            (number("ts"), number("ts") + number("dur"))
        };
        let (range, product) = (time("forward layer 3"), time("aten::matmul"));
        assert!(range.0 <= product.0 && product.1 <= range.1, "{range:?} and {product:?}");
    }
}
