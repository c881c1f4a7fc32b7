//! The C++ shim for what tch does not bind, and nothing else.

pub mod device;
mod errors;
pub mod kernels;
pub mod memory;
pub mod ops;
pub mod profiler;
pub mod transfer;

use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_void};
use tch::{TchError, Tensor};

type Message = *mut c_char;
type Handle = *mut c_void;

unsafe extern "C" {
    fn trainer_backward(roots: *const Handle, grads: *const Handle, n: usize) -> Message;
    fn trainer_set_grad(leaf: Handle, grad: Handle) -> Message;
    fn trainer_clear_grad(leaf: Handle) -> Message;
    fn trainer_set_tf32(on: bool) -> Message;
    fn trainer_tf32(on: *mut bool) -> Message;
    fn trainer_cpu_has(found: *mut bool, name: *const c_char) -> Message;
    fn trainer_libtorch_config(text: *mut *mut c_char) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_fused_adamw(
        weights: Handle,
        grads: Handle,
        exp_avg: Handle,
        exp_avg_sq: Handle,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        step: f64,
        grad_scale: f64,
    ) -> Message;
}

/// Where the parts of libtorch's messages begin that users do not need: C++ stack traces, its own advice.
const TAILS: [&str; 6] = [
    "Exception raised from",
    "frame #0",
    "Search for `cuda",
    "CUDA kernel errors might",
    "For debugging consider passing",
    "If reserved but unallocated memory is large",
];

/// Converts a libtorch message to an error with its kind, cause and remedy ([`device::error`]).
pub fn libtorch_error(message: &str) -> Error {
    let wrapper = "called `Result::unwrap()` on an `Err` value: Torch(\"";
    let text = message.strip_prefix(wrapper).unwrap_or(message);
    let end = TAILS.iter().filter_map(|tail| text.find(tail)).min().unwrap_or(text.len());
    // In a panic message a line end is escaped.
    let mut text = text[..end].trim_end();
    while let Some(shorter) = text.strip_suffix("\\n").or_else(|| text.strip_suffix("\")")) {
        text = shorter.trim_end();
    }
    errors::error(text.trim())
}

impl From<TchError> for Error {
    fn from(e: TchError) -> Self {
        libtorch_error(&e.to_string())
    }
}

fn check(message: Message) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns either null or a string made by strdup.
    Err(libtorch_error(&unsafe { take(message) }))
}

/// Takes ownership of a string.
///
/// # Safety
/// It was allocated by strdup and has no other owner.
unsafe fn take(text: *mut c_char) -> String {
    // SAFETY: the caller's word.
    unsafe {
        let taken = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        taken
    }
}

fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

/// Runs backward from `roots`, each with its gradient of the same shape; gradients of leaves accumulate.
pub fn backward(roots: &[&Tensor], grads: &[&Tensor]) -> Result<()> {
    assert_eq!(roots.len(), grads.len(), "each root needs its gradient");
    let roots: Vec<Handle> = roots.iter().map(|t| handle(t)).collect();
    let grads: Vec<Handle> = grads.iter().map(|t| handle(t)).collect();
    // SAFETY: both arrays hold `len` pointers to live tensors.
    check(unsafe { trainer_backward(roots.as_ptr(), grads.as_ptr(), roots.len()) })
}

/// Sets `leaf.grad`: backward accumulates the gradient of `leaf` in `grad` (same shape).
pub fn set_grad(leaf: &Tensor, grad: &Tensor) -> Result<()> {
    // SAFETY: both are live tensors; libtorch keeps its own reference to `grad`.
    check(unsafe { trainer_set_grad(handle(leaf), handle(grad)) })
}

/// Clears `leaf.grad`: the next backward allocates a new one.
pub fn clear_grad(leaf: &Tensor) -> Result<()> {
    // SAFETY: a live tensor.
    check(unsafe { trainer_clear_grad(handle(leaf)) })
}

/// Sets whether fp32 matmuls on a GPU may use TF32 (10 bits of mantissa); a setting of the process.
pub fn set_tf32(on: bool) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { trainer_set_tf32(on) })
}

/// Returns the value set by [`set_tf32`].
pub fn tf32() -> Result<bool> {
    let mut on = false;
    // SAFETY: a pointer to a live variable.
    check(unsafe { trainer_tf32(&mut on) })?;
    Ok(on)
}

/// Whether this CPU has a capability, by libtorch's name such as `amx_bf16` or `avx512_fp16`.
pub fn cpu_has(name: &CStr) -> Result<bool> {
    let mut found = false;
    // SAFETY: both pointers are live for the call.
    check(unsafe { trainer_cpu_has(&mut found, name.as_ptr()) })?;
    Ok(found)
}

/// Returns libtorch's text about its version and build (`at::show_config`).
pub fn libtorch_config() -> Result<String> {
    let mut text = std::ptr::null_mut();
    // SAFETY: a pointer to a live variable.
    check(unsafe { trainer_libtorch_config(&mut text) })?;
    // SAFETY: without an error the shim has filled it by strdup.
    Ok(unsafe { take(text) })
}

/// Returns libtorch's version; an empty text if it is unknown.
pub fn libtorch_version() -> String {
    libtorch_config().ok().and_then(|text| version_in(&text)).unwrap_or_default()
}

/// Returns libtorch's version from its build settings.
fn version_in(config: &str) -> Option<String> {
    let after = config.split("TORCH_VERSION=").nth(1)?;
    Some(after.split([',', '\n', ' ']).next()?.to_owned())
}

/// Hyper-parameters of an AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Step number, from 1.
    pub step: u64,
    /// Divisor of the gradients (1: unchanged).
    pub grad_scale: f64,
}

/// Runs a fused AdamW step in place on slices of equal length.
pub fn fused_adamw(w: &Tensor, g: &Tensor, exp_avg: &Tensor, exp_avg_sq: &Tensor, s: &AdamWStep) -> Result<()> {
    // SAFETY: four live tensors.
    check(unsafe {
        trainer_fused_adamw(
            handle(w),
            handle(g),
            handle(exp_avg),
            handle(exp_avg_sq),
            s.learning_rate,
            s.beta1,
            s.beta2,
            s.weight_decay,
            s.epsilon,
            s.step as f64,
            s.grad_scale,
        )
    })
}

/// Returns the memory of a contiguous CPU tensor.
///
/// # Panics
/// If the tensor is not on the CPU or not contiguous.
pub fn bytes(tensor: &Tensor) -> &[u8] {
    assert!(tensor.device() == tch::Device::Cpu && tensor.is_contiguous(), "bytes of a contiguous CPU tensor only");
    let length = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if length == 0 {
        return &[];
    }
    // SAFETY: a contiguous CPU tensor owns `length` initialised bytes at its data pointer, for as long as it lives.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) }
}

/// Runs `work` without recording a graph. Unlike `tch::no_grad`, restores recording after a panic (out of memory).
pub fn without_graph<T>(work: impl FnOnce() -> T) -> T {
    let _guard = tch::no_grad_guard();
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_build_settings() {
        assert_eq!(version_in("Build settings: A=B, TORCH_VERSION=2.13.0, USE_CUDA=ON").as_deref(), Some("2.13.0"));
        assert_eq!(version_in("nothing"), None);
        assert!(libtorch_version().starts_with("2."), "{}", libtorch_version());
    }
}
