//! The state of the CUDA kernels (`src/ops/cuda`).

use super::{Message, check, take};
use crate::error::Result;
use std::ffi::c_char;
use std::ptr::null_mut;

unsafe extern "C" {
    fn trainer_kernels_state(text: *mut *mut c_char, device: i64) -> Message;
}

/// Describes the CUDA kernels of a GPU: for which architecture and by which NVRTC they are compiled, that they are
/// turned off, or why they cannot be used. Compiles them if that has not been done.
pub fn state(device: usize) -> Result<String> {
    let mut text = null_mut();
    // SAFETY: a pointer to a live variable.
    check(unsafe { trainer_kernels_state(&mut text, device as i64) })?;
    // SAFETY: without an error the shim has filled it by strdup.
    Ok(unsafe { take(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a driver or a GPU there is a reason, and no error.
    #[test]
    fn a_machine_without_a_gpu_has_a_reason() {
        if tch::Cuda::is_available() {
            return;
        }
        let state = state(0).unwrap();
        assert!(state.starts_with("not usable: ") && state.contains("cu"), "{state}");
    }
}
