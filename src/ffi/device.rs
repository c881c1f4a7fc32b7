//! The current GPU of a thread, libtorch's CUDA allocator, and the meaning of CUDA errors.

pub use super::errors::error;

use super::{Message, check, libtorch_error, set_tf32};
use crate::error::{Result, catch_panic};
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;

unsafe extern "C" {
    fn trainer_set_device(index: i32) -> Message;
    fn trainer_synchronize_device(index: i32) -> Message;
    fn trainer_set_allocator(settings: *const c_char) -> Message;
    fn trainer_expandable_segments() -> bool;
    fn trainer_empty_cache() -> Message;
}

/// Sets the current GPU of the calling thread, so that libtorch allocates nothing on GPU 0 by default. Every thread
/// that uses the GPU calls it. No effect on the CPU.
///
/// # Errors
/// If libtorch has no CUDA support, or the GPU does not exist.
pub fn set_current(device: Device) -> Result<()> {
    let Device::Cuda(index) = device else { return Ok(()) };
    // SAFETY: a plain number.
    check(unsafe { trainer_set_device(index as i32) })
}

/// Waits until a GPU has finished all queued work. No effect on the CPU.
///
/// # Errors
/// Errors on the GPU since the last check.
pub fn synchronize(device: Device) -> Result<()> {
    let Device::Cuda(index) = device else { return Ok(()) };
    // SAFETY: a plain number.
    check(unsafe { trainer_synchronize_device(index as i32) })
}

/// Returns memory of the caching allocator that no tensor uses to the GPU. No effect on the CPU.
pub fn empty_cache(device: Device) -> Result<()> {
    let Device::Cuda(_) = device else { return Ok(()) };
    // SAFETY: no arguments.
    check(unsafe { trainer_empty_cache() })
}

/// Runs work that may run out of memory, and returns panics as errors, because tch panics on libtorch errors in
/// functions without a `Result`.
pub fn attempt<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_panic(work).unwrap_or_else(|panic| Err(libtorch_error(&panic)))
}

/// Environment variables that configure libtorch's CUDA allocator.
const ALLOCATOR_VARIABLES: [&str; 2] = ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"];

/// Enables expandable segments in libtorch's CUDA allocator, so that steps of changing shapes do not fragment memory,
/// unless the user has configured the allocator. Call it before the first tensor on a GPU; no effect on the CPU.
pub fn use_expandable_segments() -> Result<()> {
    // The driver of WSL 2 rejects expandable segments at the first tensor (pytorch issue 192330).
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if kernel.to_lowercase().contains("microsoft")
        || ALLOCATOR_VARIABLES.iter().any(|name| std::env::var_os(name).is_some())
    {
        return Ok(());
    }
    // SAFETY: a C string.
    check(unsafe { trainer_set_allocator(c"expandable_segments:True".as_ptr()) })
}

/// Whether libtorch's CUDA allocator uses expandable segments.
pub fn has_expandable_segments() -> bool {
    // SAFETY: no arguments.
    unsafe { trainer_expandable_segments() }
}

static TF32: AtomicBool = AtomicBool::new(false);

/// Sets whether fp32 matmuls on a GPU may use TF32 from now on.
pub fn allow_tf32(on: bool) -> Result<()> {
    TF32.store(on, Ordering::Relaxed);
    set_tf32(on)
}

/// Disables TF32 while it exists; then the setting of [`allow_tf32`] applies again.
#[must_use = "dropping this restores TF32"]
pub struct DisableTf32(());

impl DisableTf32 {
    pub fn new() -> Result<Self> {
        set_tf32(false)?;
        Ok(DisableTf32(()))
    }
}

impl Drop for DisableTf32 {
    fn drop(&mut self) {
        // Setting it succeeded before.
        _ = set_tf32(TF32.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind, catches_panics};

    /// The text that libtorch 2.11 adds after the first line of a CUDA error.
    const HINTS: &str = "\nSearch for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/\
        group__CUDART__TYPES.html for more information.\nCUDA kernel errors might be asynchronously reported at some \
        other API call, so the stacktrace below might be incorrect.\nFor debugging consider passing \
        CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n\nException raised \
        from c10_cuda_check_implementation at /pytorch/c10/cuda/CUDAException.cpp:44 (most recent call first):\nframe #0";

    #[test]
    fn errors_of_this_gpu_are_not_a_peer_s() {
        for text in [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: device-side assert triggered",
            "CUDA error: unspecified launch failure",
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`",
            "cuEventQuery failed: an illegal memory access was encountered (CUDA error 700)",
            "Cuda failure 719 'unspecified launch failure'",
        ] {
            let e = libtorch_error(&format!("{text}{HINTS}"));
            let message = e.to_string();
            assert_eq!(e.kind(), Kind::Other, "{message}");
            assert!(message.starts_with(text) && message.contains("with CUDA_LAUNCH_BLOCKING=1 to find"), "{message}");
            assert!(!message.contains("docs.nvidia.com") && !message.contains("TORCH_USE_CUDA_DSA"), "{message}");
        }
        for (text, remedy) in [
            ("CUDA driver version is insufficient for CUDA runtime version", "update the NVIDIA driver"),
            ("CUDA error: no kernel image is available for execution on the device", "has no code for this GPU"),
            ("CUDA error: uncorrectable ECC error encountered", "nvidia-smi -q -d ECC"),
        ] {
            let e = libtorch_error(text);
            assert!(e.kind() == Kind::Other && e.to_string().contains(remedy), "{e}");
        }
    }

    #[test]
    fn out_of_memory_has_a_kind_of_its_own_wherever_it_is_found() {
        for text in [
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3.19 GiB is \
             free. Including non-PyTorch memory, this process has 75.92 GiB memory in use. Of the allocated memory 70.01 \
             GiB is allocated by PyTorch, and 4.66 GiB is reserved by PyTorch but unallocated. If reserved but unallocated \
             memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See \
             documentation for Memory Management  \
             (https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "CUDA error: out of memory",
            "cuStreamCreate failed: out of memory (CUDA error 2)",
            "ncclCommInitRank failed: unhandled cuda error (NCCL error 1): Cuda failure 2 'out of memory'",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to \
             allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
        ] {
            let e = libtorch_error(text);
            let message = e.to_string();
            assert_eq!(e.kind(), Kind::OutOfMemory, "{message}");
            assert!(message.ends_with("on more ranks") && !message.contains("docs.pytorch.org"), "{message}");
            assert_eq!(libtorch_error(&message).to_string(), message, "the remedy is added once");
        }
        assert_eq!(error("some other text").to_string(), "some other text");
    }

    #[test]
    fn an_attempt_that_runs_out_of_memory_has_an_error() {
        let work = || Ok(tch::Tensor::zeros([1 << 50], (tch::Kind::Double, Device::Cpu)));
        let e = attempt(work).unwrap_err();
        assert!(e.kind() == Kind::OutOfMemory && !catches_panics(), "{e}");
        assert!(attempt(|| Ok(catches_panics())).unwrap());
        assert_eq!(attempt::<()>(|| Err(Error::input("bad"))).unwrap_err().to_string(), "bad");
        assert!(attempt::<()>(|| panic!("some bug")).unwrap_err().to_string().contains("some bug"));
        attempt::<()>(|| crate::ffi::without_graph(|| panic!("out of memory"))).unwrap_err();
        let leaf = tch::Tensor::from(1f32).set_requires_grad(true);
        assert!((leaf * 2.0).requires_grad(), "the next pass records its graph");
    }

    #[test]
    fn a_cpu_needs_none_of_it() {
        set_current(Device::Cpu)
            .and_then(|()| synchronize(Device::Cpu))
            .and_then(|()| empty_cache(Device::Cpu))
            .unwrap();
        if !tch::Cuda::is_available() {
            assert!(set_current(Device::Cuda(0)).is_err() && synchronize(Device::Cuda(0)).is_err());
        }
    }

    #[test]
    fn segments_expand_unless_a_person_has_set_the_allocator() {
        assert!(ALLOCATOR_VARIABLES.iter().all(|name| std::env::var_os(name).is_none()), "set where this test runs");
        use_expandable_segments().unwrap();
        assert!(has_expandable_segments());
    }

    #[test]
    fn exact_products_are_so_for_a_while() {
        allow_tf32(true).unwrap();
        let exact = DisableTf32::new().unwrap();
        assert!(!super::super::tf32().unwrap());
        drop(exact);
        assert!(super::super::tf32().unwrap());
        allow_tf32(false).unwrap();
        assert!(!super::super::tf32().unwrap());
    }
}
