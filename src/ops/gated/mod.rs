//! Activations, and the second half of a gated feed-forward layer (arXiv 2002.05202): `(f(gate) * up) W^T + b`.

pub mod activation;

use self::activation::Activation;
use super::cost::{ComputeMode, Cost};
use super::{done, dropout, linear};
use crate::ffi;
use tch::Tensor;

/// Returns `dropout(f(gate) * up) W^T + b` of `x`, `[T, 2 * inner]` with the gate first; W is `[out, inner]` and b
/// `[out]`; the dropout is (p, key).
///
/// Only `x` is kept for backward, which computes the product again (on a GPU without kernels the product too).
pub fn gated_linear(
    x: &Tensor,
    f: Activation,
    drops: Option<(f64, u64)>,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    if ffi::kernels::available(x) {
        let upcast = linear::upcasts(x);
        return done(ffi::ops::gated_linear(x, weight, bias, f as i64, drops, upcast), "gated linear layer", x);
    }
    let halves = x.chunk(2, -1);
    let inner = f.forward(&halves[0]) * &halves[1];
    let inner = drops.map_or(inner.shallow_clone(), |(p, key)| dropout::dropout(inner, p, key));
    linear::linear(&inner, weight, bias)
}

/// Returns the cost of [`gated_linear`] for this many rows; its input is kept.
pub fn cost(how: &ComputeMode, f: Activation, rows: f64, [out, inner]: [i64; 2], p: f64) -> Cost {
    let product = how.element() * rows * inner as f64;
    let matmul = linear::cost(how, rows, [out, inner], !how.cpu);
    let drops = dropout::cost(how, rows * inner as f64, p);
    if how.cpu {
        // Of a few rows at a time, in fp32: gate and up, the product; in backward also the gradients.
        let piece = 4.0 * rows.min(128.0) * inner as f64;
        let [ahead, back] = match (f, how.element() < 4.0) {
            (Activation::Silu, false) => [0.0, 0.0],
            (_, false) => [piece, 3.0 * piece],
            (_, true) => [3.0 * piece, 6.0 * piece],
        };
        // The product; in backward its gradient and that of the input.
        let alone = 3.0 * product + matmul.alone.max(ahead);
        let forward = 3.0 * product + matmul.forward.max(ahead);
        let backward = 2.0 * product + (2.0 * product + matmul.backward).max(4.0 * product + back + matmul.forward);
        return Cost { flops: matmul.flops, kept: 2.0 * product, forward, backward, alone, ..Cost::default() };
    }
    let passing = if f.is_of_result() { product } else { 2.0 * product };
    let op = Cost::op(3.0 * product, 2.0 * product, product, [product, passing]);
    [op, drops, matmul].into_iter().sum()
}

#[cfg(test)]
mod tests;
