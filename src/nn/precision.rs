//! Matmuls of bf16 and fp16 on a CPU: in fp32 and rounded once, except where the processor multiplies halves faster.
//!
//! The choice is a function of the processor alone, so that ranks on the same kind of machine and a resumed run agree
//! to the bit. On a GPU, libtorch's kernels compute everything; they accumulate in fp32.

use crate::ffi;
use std::sync::LazyLock;
use tch::{Device, Kind, Tensor};

/// How half matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matmul {
    /// By libtorch's half matmul.
    Native,
    /// In fp32; the result is rounded.
    Upcast,
}

/// Whether `x` is a bf16 or fp16 tensor on the CPU.
pub fn on_cpu(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::BFloat16 | Kind::Half)
}

/// Returns the faster way on this CPU.
///
/// Forward and backward of 700 x 384 to 1536 on one core of a processor with all instructions took: fp32 13.6 ms; bf16
/// by AMX 2.8, by `avx512_bf16` 24, upcast 15.3; fp16 by `avx512_fp16` 14.2, upcast 15.8. Without the instructions
/// libtorch takes 400 to 540 ms. Unmeasured processors, such as ARM, upcast.
pub fn matmul(kind: Kind) -> Matmul {
    static BF16: LazyLock<bool> = LazyLock::new(|| ffi::cpu_has(c"amx_bf16").unwrap_or(false));
    static FP16: LazyLock<bool> = LazyLock::new(|| ffi::cpu_has(c"avx512_fp16").unwrap_or(false));
    let native = match kind {
        Kind::BFloat16 => *BF16,
        Kind::Half => *FP16,
        _ => true,
    };
    if native { Matmul::Native } else { Matmul::Upcast }
}

/// `x W^T + b` for any type and device: x `[T, in]`, W `[out, in]`, b `[out]`.
///
/// # Panics
/// As tch: if shapes or dtypes do not match, or memory is exhausted.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let how = if on_cpu(x) { matmul(x.kind()) } else { Matmul::Native };
    linear_by(how, x, weight, bias)
}

/// [`linear`] by the given way; `Upcast` is for half tensors on the CPU.
pub fn linear_by(how: Matmul, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    match how {
        Matmul::Native => x.linear(weight, bias),
        Matmul::Upcast => ffi::layers::half_linear(x, weight, bias)
            .unwrap_or_else(|e| panic!("linear layer {:?} on {:?}: {e}", weight.size(), x.size())),
    }
}
