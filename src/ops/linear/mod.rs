//! Linear layers. Matmuls of bf16 and fp16 on a CPU are in fp32 and rounded once, except where the processor
//! multiplies halves faster.
//!
//! The choice is a function of the processor alone, so that ranks on the same kind of machine and a resumed run agree
//! to the bit. On a GPU, libtorch's kernels compute everything; they accumulate in fp32.

use super::cost::{ComputeMode, Cost};
use super::done;
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

/// Whether matrices of this tensor's type and device are multiplied in fp32.
pub fn upcasts(x: &Tensor) -> bool {
    on_cpu(x) && matmul(x.kind()) == Matmul::Upcast
}

/// `x W^T + b` for any type and device: x `[T, in]`, W `[out, in]`, b `[out]`.
///
/// # Panics
/// As tch: if shapes or dtypes do not match, or memory is exhausted.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    linear_by(if upcasts(x) { Matmul::Upcast } else { Matmul::Native }, x, weight, bias)
}

/// [`linear`] by the given way; `Upcast` is for half tensors on the CPU.
pub fn linear_by(how: Matmul, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    match how {
        Matmul::Native => x.linear(weight, bias),
        Matmul::Upcast => done(ffi::ops::half_linear(x, weight, bias), "linear layer", x),
    }
}

/// Returns the cost of the matmul of `rows` vectors with a matrix `[outputs, inputs]`; with `keeps`, its input is counted
/// as kept.
pub fn cost(how: &ComputeMode, rows: f64, [outputs, inputs]: [i64; 2], keeps: bool) -> Cost {
    let (e, x, y) = (how.element(), rows * inputs as f64, rows * outputs as f64);
    let weight = inputs as f64 * outputs as f64;
    let upcast = how.widens() && matmul(how.kind) == Matmul::Upcast;
    let wide = if upcast { 4.0 * (x + y + weight) } else { 0.0 };
    // The weight's gradient is a separate tensor until it is accumulated.
    let op = Cost::op(if keeps { e * x } else { 0.0 }, e * x, e * y, [wide, wide + e * weight]);
    Cost { flops: 2.0 * x * outputs as f64, ..op }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP32: ComputeMode = ComputeMode::training(Kind::Float, true);

    /// By hand: 10 rows through [3, 2] and then [5, 3], fp32.
    #[test]
    fn parts_add_up() {
        let first = cost(&FP32, 10.0, [3, 2], false);
        assert_eq!((first.flops, first.kept, first.forward), (120.0, 0.0, 120.0));
        // Gradients of input, output and weight.
        assert_eq!(first.backward, 80.0 + 120.0 + 24.0);
        let both = first.then(cost(&FP32, 10.0, [5, 3], true));
        assert_eq!((both.flops, both.kept, both.forward), (120.0 + 300.0, 120.0, 120.0 + 200.0));
        assert_eq!(both.backward, 120.0 + 120.0 + 200.0 + 60.0);
        assert_eq!((both.alone, both.beside(7.0).alone), (320.0, 327.0));
        assert_eq!([first, first].into_iter().sum::<Cost>().flops, 240.0);
    }
}
