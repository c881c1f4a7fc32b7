//! Dropout (arXiv 1207.0580) whose mask is a pure function of a key.

use super::cost::{ComputeMode, Cost};
use super::done;
use crate::ffi;
use tch::Tensor;

/// Sets each element to 0 with probability `p` and scales the others by `1 / (1 - p)`.
///
/// The mask is a function of `key` and the element's index, the same for every dtype and device, and is not stored for
/// backward. On a GPU without kernels libtorch's generator is seeded with `key`; it belongs to this process alone.
pub fn dropout(x: Tensor, p: f64, key: u64) -> Tensor {
    if p == 0.0 || x.numel() == 0 {
        return x;
    }
    if ffi::kernels::available(&x) {
        return done(ffi::ops::dropout(&x, p, key), "dropout", &x);
    }
    seed(key);
    x.dropout(p, true)
}

/// Seeds the GPU's generator for libtorch's next random operation.
pub(super) fn seed(key: u64) {
    tch::manual_seed(key.cast_signed());
}

/// Returns the cost for this many elements: a GPU keeps one byte for each, the CPU computes its mask again.
pub fn cost(how: &ComputeMode, numbers: f64, p: f64) -> Cost {
    if p == 0.0 || !how.train {
        return Cost::default();
    }
    let (e, mask) = (how.element(), if how.cpu { 0.0 } else { numbers });
    let wide = 2.0 * how.wide(numbers);
    Cost::op(mask, e * numbers, e * numbers, [wide, wide])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_gpu_keeps_masks() {
        let cpu = ComputeMode::training(Kind::Float, true);
        let gpu = ComputeMode::training(Kind::BFloat16, false);
        assert_eq!((cost(&gpu, 8.0, 0.1).kept, cost(&cpu, 8.0, 0.1).kept), (8.0, 0.0));
        assert_eq!(cost(&gpu, 8.0, 0.0), Cost::default());
    }
}
