//! The state of the CUDA kernels (`src/ops/cuda`).

use super::{Handle, Message, check, handle, take};
use crate::error::Result;
use std::ffi::c_char;
use std::ptr::null_mut;
use tch::{Device, Tensor};

unsafe extern "C" {
    fn trainer_kernels_state(text: *mut *mut c_char, device: i64) -> Message;
    fn trainer_kernels_available(available: *mut bool, x: Handle) -> Message;
    fn trainer_kernels_squares(out: *mut Handle, x: Handle) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_varlen_attention(
        out: *mut Handle,
        q: Handle,
        k: Handle,
        v: Handle,
        starts: Handle,
        longest: i64,
        dropout: f64,
        causal: bool,
        window: i64,
        scale: f64,
    ) -> Message;
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

/// Whether the operations of [`super::ops`] have an implementation of their own for this tensor's device: CPUs, and GPUs
/// for which the kernels compile.
pub fn available(x: &Tensor) -> bool {
    if x.device() == Device::Cpu {
        return true;
    }
    let mut available = false;
    // SAFETY: a pointer to a live variable, and a live tensor.
    let asked = check(unsafe { trainer_kernels_available(&mut available, handle(x)) });
    asked.is_ok() && available
}

/// Takes ownership of the tensor that `make` writes, if it writes one.
fn perhaps(make: impl FnOnce(*mut Handle) -> Message) -> Result<Option<Tensor>> {
    let mut out: Handle = null_mut();
    check(make(&mut out))?;
    // SAFETY: a new at::Tensor, whose ownership passes to the tch tensor.
    Ok((!out.is_null()).then(|| unsafe { Tensor::from_ptr(out.cast()) }))
}

/// The sum of squares of a contiguous tensor, f64 without dimensions; `None` on the CPU and without kernels.
pub fn squares(x: &Tensor) -> Result<Option<Tensor>> {
    // SAFETY: a live tensor.
    perhaps(|out| unsafe { trainer_kernels_squares(out, handle(x)) })
}

/// Attention of packed sequences to themselves, q `[T, heads, head_dim]`, k and v `[T, kv_heads, head_dim]`, with their
/// starts, i32 `[n + 1]`; window as in [`super::ops::attention`]. `None` where libtorch's kernels do not exist: on the
/// CPU, on GPUs before compute capability 8.0 and for other sizes of heads.
pub fn varlen_attention(
    [q, k, v]: [&Tensor; 3],
    starts: &Tensor,
    longest: i64,
    dropout: f64,
    (causal, window): (bool, i64),
    scale: f64,
) -> Result<Option<Tensor>> {
    // SAFETY: live tensors.
    perhaps(|out| unsafe {
        let (q, k, v) = (handle(q), handle(k), handle(v));
        trainer_varlen_attention(out, q, k, v, handle(starts), longest, dropout, causal, window, scale)
    })
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
