//! Rotation of queries and keys by angles (arXiv 2104.09864).

use super::cost::{ComputeMode, Cost};
use super::done;
use crate::ffi;
use tch::Tensor;

/// The angles of the tokens of a batch.
#[derive(Debug)]
pub struct Angles {
    /// `[T, head_dim / 2]`.
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Angles {
    /// Rotates the first `heads` heads of each row of `x`, `[T, columns]`, and leaves the other columns. A pair is an
    /// element of a head's first half and the one at the same index of its second half, as in Hugging Face's weights.
    pub fn rotate(&self, x: Tensor, heads: i64) -> Tensor {
        let half = self.cos.size()[1];
        if ffi::kernels::available(&x) {
            return done(ffi::ops::rotary(&x.contiguous(), &self.cos, &self.sin, heads), "rotary embeddings", &x);
        }
        let parts = x.split_with_sizes([heads * 2 * half, x.size()[1] - heads * 2 * half], 1);
        let halves = parts[0].view([-1, heads, 2 * half]).chunk(2, -1);
        let (a, b, cos, sin) = (&halves[0], &halves[1], self.cos.unsqueeze(1), self.sin.unsqueeze(1));
        let turned = Tensor::cat(&[a * &cos - b * &sin, b * &cos + a * &sin], -1).flatten(1, 2);
        Tensor::cat(&[&turned, &parts[1]], 1)
    }
}

/// Returns the cost for `[rows, columns]`, of which this many are rotated: in place on the CPU.
pub fn cost(how: &ComputeMode, rows: f64, columns: f64, rotated: f64) -> Cost {
    let e = how.element();
    match how.cpu {
        true => Cost::op(0.0, e * rows * columns, 0.0, [how.wide(rows.min(512.0) * rotated); 2]),
        false => Cost::op(0.0, e * rows * columns, e * rows * columns, [2.0 * e * rows * rotated; 2]),
    }
}

#[cfg(test)]
mod tests;
