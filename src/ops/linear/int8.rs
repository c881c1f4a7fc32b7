//! Linear layers with int8 weights, for inference on a CPU.
//!
//! Weights are symmetric per output, activations asymmetric per row and quantized when they are multiplied, as in
//! PyTorch's dynamic quantization; there all rows share a scale, here a row does not depend on the others of its batch.
//! For the output o and a row x:
//!
//! ```text
//! W[o] ~ s[o] * w[o]         s[o] = max |W[o]| / 127,             w[o] from -127 to 127
//! x    ~ t * (q - z)         t = (max(x, 0) - min(x, 0)) / 255,   q and z from 0 to 255
//! y[o] = t * s[o] * (sum of q * w[o] - z * sum of w[o]) + b[o]
//! ```
//!
//! With AVX-512 VNNI the sums are exact integers, of four products in one instruction. On other processors fp32 matmuls
//! multiply the rounded numbers: weights take as little memory, and a layer as much time as in fp32.

use super::super::done;
use crate::error::Result;
use crate::ffi;
use std::sync::LazyLock;
use tch::Tensor;

/// The weight of a linear layer, in int8.
#[derive(Debug)]
pub struct Int8Weight {
    /// Weights, scales and sums.
    parts: [Tensor; 3],
    vnni: bool,
}

impl Int8Weight {
    /// Quantizes an f32 weight `[out, in]` on the CPU.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(weight: &Tensor) -> Result<Self> {
        static VNNI: LazyLock<bool> = LazyLock::new(|| ffi::cpu_has(c"avx512_vnni").unwrap_or(false));
        Self::of(weight, *VNNI)
    }

    fn of(weight: &Tensor, vnni: bool) -> Result<Self> {
        Ok(Int8Weight { parts: ffi::ops::int8_pack(weight, vnni)?, vnni })
    }

    /// `x W^T + b`: x f32 `[.., in]`, b `[out]`. A row with NaN or Inf becomes NaN.
    ///
    /// # Panics
    /// If shapes or dtypes do not match, or memory is exhausted.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Tensor {
        done(ffi::ops::int8_linear(x, &self.parts, bias, self.vnni), "int8 linear layer", x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// The ways that this processor has.
    fn ways() -> Vec<bool> {
        let vnni = ffi::cpu_has(c"avx512_vnni").unwrap();
        if vnni { vec![true, false] } else { vec![false] }
    }

    fn random(shape: [i64; 2], scale: f64) -> Tensor {
        let numbers: Vec<f32> = (0..shape[0] * shape[1])
            .map(|i| ((f64::from(i as i32 % 9973) * 1.7).sin() * (1.0 + f64::from(i as i32 % 7)) * scale) as f32)
            .collect();
        Tensor::from_slice(&numbers).view(shape)
    }

    /// What the quantized weights stand for, in fp64.
    fn rounded(w: &Tensor, weight: &Int8Weight) -> Tensor {
        let scales = &weight.parts[1];
        let off = (scales / (w.abs().amax([1i64], false) / 127.0) - 1.0).abs().max().double_value(&[]);
        assert!(off < 1e-6, "scales are off by {off}");
        let scales = scales.unsqueeze(1);
        (w / &scales).round().to_kind(Kind::Double) * scales.to_kind(Kind::Double)
    }

    /// Shapes that fill tiles and panels, and shapes that do not.
    const SHAPES: [[i64; 3]; 6] = [[1, 4, 1], [6, 64, 64], [7, 30, 65], [50, 129, 200], [97, 384, 100], [13, 1536, 70]];

    /// Activations that quantization does not change: each row has the integers from -z to 255 - z, times a power of two.
    #[test]
    fn products_are_those_of_the_formula() {
        for [rows, inputs, outputs] in SHAPES {
            let (w, b) = (random([outputs, inputs], 0.03), random([1, outputs], 0.5).view([outputs]));
            let column = Tensor::arange(inputs, (Kind::Int64, Device::Cpu));
            let row = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).unsqueeze(1);
            let q = (&column * 37_i64 + &row * 11_i64).remainder(256);
            // The row's least and greatest number.
            let q = q.where_self(&column.ne(0), &Tensor::from(0_i64)).where_self(&column.ne(1), &Tensor::from(255_i64));
            let x = ((q - (&row * 5_i64).remainder(256)).to_kind(Kind::Double) * 0.125).to_kind(Kind::Float);
            for vnni in ways() {
                let weight = Int8Weight::of(&w, vnni).unwrap();
                let formula = x.to_kind(Kind::Double).matmul(&rounded(&w, &weight).tr());
                // In fp32 sums are rounded too.
                let tolerance = if vnni { 1e-6 } else { 1e-5 };
                for (bias, wanted) in [(None, formula.shallow_clone()), (Some(&b), &formula + &b)] {
                    let found = weight.linear(&x, bias).to_kind(Kind::Double);
                    let error = (found - &wanted).abs().max().double_value(&[]);
                    let most = tolerance * wanted.abs().max().double_value(&[]);
                    assert!(error <= most, "{rows} x {inputs} x {outputs}, VNNI {vnni}: {error} > {most}");
                }
            }
        }
    }

    /// Any activations: off by at most half a step of each, times the weights.
    #[test]
    fn activations_are_off_by_half_a_step() {
        for [rows, inputs, outputs] in SHAPES {
            let (w, x) = (random([outputs, inputs], 0.03), random([rows, inputs], 1.0) + 0.3);
            let wide = x.to_kind(Kind::Double);
            let zero = wide.zeros_like().amax([1i64], true);
            let step = (wide.amax([1i64], true).maximum(&zero) - wide.amin([1i64], true).minimum(&zero)) / 255.0;
            for vnni in ways() {
                let weight = Int8Weight::of(&w, vnni).unwrap();
                let exact = rounded(&w, &weight).tr();
                let bound = step.matmul(&exact.abs().sum_dim_intlist([0i64].as_slice(), true, None)) * 0.501;
                let error = (weight.linear(&x, None).to_kind(Kind::Double) - wide.matmul(&exact)).abs();
                let over = (&error - bound).max().double_value(&[]);
                assert!(over <= 1e-5, "{rows} x {inputs} x {outputs}, VNNI {vnni}: {over}");
                assert!(error.max().double_value(&[]) > 0.0, "activations are quantized");
            }
        }
    }

    /// To the bit with VNNI; fp32 matmuls of other sizes may add in another order.
    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let (w, x) = (random([100, 130], 0.03), random([50, 130], 1.0));
        for vnni in ways() {
            let weight = Int8Weight::of(&w, vnni).unwrap();
            let together = weight.linear(&x, None);
            let rounding = 1e-6 * together.abs().max().double_value(&[]);
            for row in [0, 5, 6, 49] {
                let alone = weight.linear(&x.narrow(0, row, 1), None);
                let error = (alone - together.narrow(0, row, 1)).abs().max().double_value(&[]);
                assert!(error <= if vnni { 0.0 } else { rounding }, "row {row}, VNNI {vnni}: {error}");
            }
        }
    }

    #[test]
    fn zeros_stay_and_nan_spreads_within_its_row() {
        let w = Tensor::cat(&[random([3, 8], 0.1), Tensor::zeros([1, 8], (Kind::Float, Device::Cpu))], 0);
        let b = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]);
        let x = Tensor::zeros([4, 8], (Kind::Float, Device::Cpu));
        _ = x.get(1).fill_(1.5);
        _ = x.get(2).get(3).fill_(f64::NAN);
        _ = x.get(3).get(7).fill_(f64::NEG_INFINITY);
        for vnni in ways() {
            let y = Int8Weight::of(&w, vnni).unwrap().linear(&x.view([2, 2, 8]), Some(&b));
            assert_eq!(y.size(), [2, 2, 4]);
            let y = y.view([4, 4]);
            assert!(y.get(0).equal(&b), "{y}");
            assert_eq!(y.get(1).double_value(&[3]), 4.0);
            assert_eq!(Vec::<bool>::try_from(y.isnan().all_dim(1, false)).unwrap(), [false, false, true, true]);
            let none = Int8Weight::of(&w, vnni).unwrap().linear(&x.narrow(0, 0, 0), Some(&b));
            assert_eq!(none.size(), [0, 4]);
        }
    }
}
