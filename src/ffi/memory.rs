//! Memory measurement: counts the bytes of CPU tensors by use, frees and reallocates storages, and reads a GPU's peak.
//!
//! The counts are per process; ranks that are threads share them. They cover the memory of tensors, not what libraries
//! allocate for themselves (such as packed matmul operands).

use super::{Handle, Message, check, handle};
use crate::error::Result;
use std::sync::Once;
use tch::{Device, Tensor};

unsafe extern "C" {
    fn trainer_memory_install() -> Message;
    fn trainer_memory_use(what: u32) -> u32;
    fn trainer_memory_usage(out: *mut u64);
    fn trainer_memory_reset_peaks();
    fn trainer_resize_storage(tensor: Handle, bytes: usize) -> Message;
    fn trainer_device_memory(kind: i32, index: i32, out: *mut u64) -> Message;
    fn trainer_device_reset_peak(kind: i32, index: i32) -> Message;
}

/// `c10::DeviceType::CUDA`.
const CUDA: i32 = 1;

/// Use of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Weights,
    Gradients,
    Optimizer,
    /// Everything without another use.
    Activations,
    Communication,
}

impl Use {
    /// All uses, in the order of [`Usage`]'s arrays.
    pub const ALL: [Use; 5] = [Use::Weights, Use::Gradients, Use::Optimizer, Use::Activations, Use::Communication];

    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Use::Weights => "weights",
            Use::Gradients => "gradients",
            Use::Optimizer => "optimizer",
            Use::Activations => "activations",
            Use::Communication => "communication",
        }
    }
}

/// Bytes of CPU tensors, by use in the order of [`Use::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Current bytes.
    pub current: [u64; 5],
    /// Peak of each use; not all at the same time.
    pub peak: [u64; 5],
    pub total_peak: u64,
    /// Bytes of each use at that peak. Exact if no other thread allocated at the same time.
    pub at_total_peak: [u64; 5],
}

/// Counts CPU tensors from now on; existing tensors stay uncounted. Call it before the first tensor, because libtorch
/// does not lock its choice of allocator. Repeated calls have no effect.
///
/// # Panics
/// If another part of the program has set libtorch's CPU allocator with the highest priority.
pub fn install() {
    static ONCE: Once = Once::new();
    // SAFETY: no arguments; the allocator lives as long as the process.
    ONCE.call_once(|| check(unsafe { trainer_memory_install() }).expect("libtorch takes the highest priority"));
}

/// Runs `body`; this thread's allocations meanwhile count as `what`. The innermost call decides.
pub fn during<T>(what: Use, body: impl FnOnce() -> T) -> T {
    struct Restore(u32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: a plain value of this thread, one that the shim itself has returned.
            unsafe { trainer_memory_use(self.0) };
        }
    }
    // SAFETY: a plain value of this thread, below the number of uses.
    let _restore = Restore(unsafe { trainer_memory_use(what as u32) });
    body()
}

/// Returns current and peak bytes of CPU tensors.
pub fn usage() -> Usage {
    let mut raw = [0; 16];
    // SAFETY: the shim writes 3 x 5 + 1 numbers.
    unsafe { trainer_memory_usage(raw.as_mut_ptr()) };
    let part = |n: usize| std::array::from_fn(|i| raw[5 * n + i]);
    Usage { current: part(0), peak: part(1), at_total_peak: part(2), total_peak: raw[15] }
}

/// Resets the peaks to the current bytes.
pub fn reset_peaks() {
    // SAFETY: no arguments.
    unsafe { trainer_memory_reset_peaks() }
}

/// Reallocates the storage of `tensor` with `bytes` bytes (0: frees it) from its device's allocator, with undefined
/// contents, counted under the current use. Shapes stay: all views of the storage see the new block, including those
/// saved by autograd. A storage of that size stays unchanged.
///
/// While the storage is smaller than a view, that view must not be read or written.
///
/// # Errors
/// Out of memory; the storage is then empty.
pub fn resize_storage(tensor: &Tensor, bytes: usize) -> Result<()> {
    // SAFETY: a live tensor.
    check(unsafe { trainer_resize_storage(handle(tensor), bytes) })
}

/// Returns the bytes of tensors on a GPU; `None` for the CPU, or if libtorch has no allocator for it.
pub fn device_current(device: Device) -> Option<u64> {
    device_memory(device).map(|[current, _, _]| current)
}

/// Returns the peak bytes of tensors on a GPU; `None` as in [`device_current`].
pub fn device_peak(device: Device) -> Option<u64> {
    device_memory(device).map(|[_, peak, _]| peak)
}

/// Returns the memory of a GPU in bytes; `None` as in [`device_current`].
pub fn device_total(device: Device) -> Option<u64> {
    device_memory(device).map(|[_, _, total]| total)
}

/// Resets the peak of a GPU to the current bytes. No effect on the CPU.
pub fn reset_device_peak(device: Device) -> Result<()> {
    let Device::Cuda(index) = device else { return Ok(()) };
    // SAFETY: plain numbers.
    check(unsafe { trainer_device_reset_peak(CUDA, index as i32) })
}

/// Returns current bytes, peak, and the device's memory.
fn device_memory(device: Device) -> Option<[u64; 3]> {
    let Device::Cuda(index) = device else { return None };
    let mut numbers = [0; 3];
    // SAFETY: the shim writes three numbers.
    check(unsafe { trainer_device_memory(CUDA, index as i32, numbers.as_mut_ptr()) }).ok()?;
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind as ErrorKind;
    use crate::ffi::{backward, bytes};
    use tch::Kind;

    const FLOATS: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Writes into a contiguous tensor's memory without libtorch, like a collective.
    fn fill_raw(tensor: &Tensor, values: &[f32]) {
        assert!(tensor.is_contiguous() && tensor.numel() == values.len());
        // SAFETY: a contiguous CPU tensor of as many floats.
        unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), values.len()) }
            .copy_from_slice(values);
    }

    #[test]
    fn views_see_the_refilled_storage() {
        install();
        let flat = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let view = flat.narrow(0, 2, 4).view([2, 2]);
        resize_storage(&view, 0).unwrap();
        assert_eq!(flat.numel(), 6);
        resize_storage(&flat, 24).unwrap();
        fill_raw(&flat, &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(Vec::<f32>::try_from(view.view([-1])).unwrap(), [30.0, 40.0, 50.0, 60.0]);
    }

    /// Sharded weights depend on this: they are freed between forward and backward.
    #[test]
    fn backward_through_weights_that_were_away() {
        install();
        let run = |away: bool| {
            let flat = Tensor::arange(12, FLOATS) * 0.5;
            let weight = flat.narrow(0, 0, 8).view([2, 4]).detach().set_requires_grad(true);
            let bias = flat.narrow(0, 8, 2).detach().set_requires_grad(true);
            let x = (Tensor::arange(12, FLOATS).view([3, 4]) - 5.0).set_requires_grad(true);
            let y = x.linear(&weight, Some(&bias));
            let start = Tensor::arange(6, FLOATS).view([3, 2]) + 1.0;
            if away {
                let values: Vec<f32> = Vec::try_from(&flat).unwrap();
                resize_storage(&flat, 0).unwrap();
                resize_storage(&flat, 48).unwrap();
                fill_raw(&flat, &values);
            }
            backward(&[&y], &[&start]).unwrap();
            [x.grad(), weight.grad(), bias.grad()].map(|grad| bytes(&grad).to_vec())
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn too_much_is_out_of_memory() {
        install();
        let flat = Tensor::zeros([4], FLOATS);
        for bytes in [1 << 60, usize::MAX - 32] {
            let error = resize_storage(&flat, bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        }
        resize_storage(&flat, 16).unwrap();
        assert_eq!(Vec::<f32>::try_from(flat.fill(7.0)).unwrap(), [7.0; 4]);
    }

    #[test]
    fn only_a_gpu_is_a_device() {
        for device in [Device::Cpu, Device::Cuda(0)] {
            let here = tch::Cuda::is_available() && device != Device::Cpu;
            for bytes in [device_current(device), device_peak(device), device_total(device)] {
                assert_eq!(bytes.is_some(), here, "{device:?}");
            }
        }
        assert!(reset_device_peak(Device::Cpu).is_ok());
    }
}
