//! Uniform noise as a pure function of keys.

use crate::ffi::without_graph;
use tch::{Kind, Tensor};

/// Temporary bytes per number of noise: two integers.
pub const BYTES: f64 = 16.0;

/// Returns uniform noise in `[-1, 1)`, f32 `[T, width]`, for `keys`, i64 `[T]`. An element is a function of its row's key
/// and of its column, the same on every device: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub fn uniform(keys: &Tensor, width: i64) -> Tensor {
    without_graph(|| {
        // The arithmetic of 64-bit integers wraps.
        let columns = Tensor::arange(width, (Kind::Int64, keys.device())) + 1;
        let mut z = columns * 0x9e37_79b9_7f4a_7c15_u64.cast_signed() + keys.unsqueeze(1);
        for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9_u64), (27, 0x94d0_49bb_1331_11eb), (31, 1)] {
            // Its shift repeats the sign.
            let shifted = z.bitwise_right_shift_tensor_scalar(shift).bitwise_and_(i64::MAX >> (shift - 1));
            z = z.bitwise_xor_tensor_(&shifted).g_mul_scalar_(factor.cast_signed());
        }
        // The upper 24 bits with their sign: every value is exact in fp32.
        z.bitwise_right_shift_tensor_scalar_(40).to_kind(Kind::Float).g_mul_scalar_(1.0 / f64::from(1 << 23))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(key: u64, column: u64) -> f64 {
        let z = key.wrapping_add((column + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = z ^ (z >> 31);
        (z.cast_signed() >> 40) as f64 / f64::from(1 << 23)
    }

    #[test]
    fn numbers_are_those_of_splitmix64_and_uniform() {
        let keys: Vec<i64> = (0..100).map(|i: i64| i.wrapping_mul(-0x1234_5678_9abc_def1)).collect();
        let noise = uniform(&Tensor::from_slice(&keys), 300);
        for (row, key) in keys.iter().enumerate() {
            for column in 0..300 {
                let found = noise.double_value(&[row as i64, column]);
                assert_eq!(found, reference(key.cast_unsigned(), column.cast_unsigned()));
            }
        }
        let n = 30_000.0_f64;
        assert!(noise.abs().max().double_value(&[]) <= 1.0);
        assert!(noise.mean(Kind::Double).double_value(&[]).abs() < 5.0 / (3.0 * n).sqrt());
        let variance = noise.square().mean(Kind::Double).double_value(&[]);
        assert!((variance - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / n).sqrt(), "{variance}");
        let moved = (&noise * noise.roll([1], [0])).mean(Kind::Double).double_value(&[]);
        assert!(moved.abs() < 5.0 / (3.0 * n.sqrt()), "rows are correlated: {moved}");
    }
}
