//! The cost of running a layer: FLOPs and bytes of its tensors, from shapes alone.
//!
//! Every layer states what its forward keeps for backward, and its temporary memory. A layer counts the inputs that it
//! keeps, not its output: that is an input of the next. `tests/plan_stages.rs` compares the sums with measured bytes.

use crate::nn::precision::{self, Matmul};
use std::iter::Sum;
use tch::Kind;

/// How tensors are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComputeMode {
    /// The compute type.
    pub kind: Kind,
    /// Whether on the CPU, with the layers of [`crate::ffi::layers`].
    pub cpu: bool,
    /// Whether there is dropout.
    pub train: bool,
}

/// Bytes and FLOPs of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// FLOPs of the forward matmuls: two per multiplication. Backward has twice as many.
    pub flops: f64,
    /// The part of them in attention, which is quadratic in the length.
    pub attention_flops: f64,
    /// Bytes kept from forward to backward.
    pub kept: f64,
    /// Peak of temporary bytes in forward, in backward, and in forward without a graph; without the input and earlier
    /// blocks.
    pub forward: f64,
    pub backward: f64,
    pub alone: f64,
}

impl ComputeMode {
    /// Bytes of one element.
    pub fn element(&self) -> f64 {
        self.kind.elt_size_in_bytes() as f64
    }

    /// Whether half layers compute in fp32.
    pub fn widens(&self) -> bool {
        self.cpu && self.element() < 4.0
    }

    /// Bytes of the fp32 copies of this many elements, if half layers make them.
    pub fn wide(&self, numbers: f64) -> f64 {
        if self.widens() { 4.0 * numbers } else { 0.0 }
    }
}

impl Cost {
    /// An operation: bytes that it keeps, bytes of its input and output, and its temporary bytes in forward and in
    /// backward. Backward also has the gradients of both.
    pub fn op(kept: f64, input: f64, output: f64, [forward, backward]: [f64; 2]) -> Self {
        Cost {
            kept,
            forward: kept + output + forward,
            backward: kept + input + output + backward,
            alone: input + output + forward,
            ..Cost::default()
        }
    }

    /// Only keeps bytes.
    pub fn keep(kept: f64) -> Self {
        Cost { kept, forward: kept, backward: kept, ..Cost::default() }
    }

    /// The matmul of `rows` vectors with a matrix `[outputs, inputs]`; with `keeps`, its input is counted as kept.
    pub fn matmul(how: &ComputeMode, rows: f64, [outputs, inputs]: [i64; 2], keeps: bool) -> Self {
        let (e, x, y) = (how.element(), rows * inputs as f64, rows * outputs as f64);
        let weight = inputs as f64 * outputs as f64;
        let upcast = how.widens() && precision::matmul(how.kind) == Matmul::Upcast;
        let wide = if upcast { 4.0 * (x + y + weight) } else { 0.0 };
        // The weight's gradient is a separate tensor until it is accumulated.
        let op = Cost::op(if keeps { e * x } else { 0.0 }, e * x, e * y, [wide, wide + e * weight]);
        Cost { flops: 2.0 * x * outputs as f64, ..op }
    }

    /// Dropout of this many elements: a GPU keeps one byte for each, the CPU recomputes its mask.
    pub fn dropout(how: &ComputeMode, numbers: f64, p: f64) -> Self {
        if p == 0.0 || !how.train {
            return Cost::default();
        }
        let (e, mask) = (how.element(), if how.cpu { 0.0 } else { numbers });
        let wide = 2.0 * how.wide(numbers);
        Cost::op(mask, e * numbers, e * numbers, [wide, wide])
    }

    /// The cost of this layer followed by another.
    pub fn then(self, next: Cost) -> Self {
        Cost {
            flops: self.flops + next.flops,
            attention_flops: self.attention_flops + next.attention_flops,
            kept: self.kept + next.kept,
            forward: self.forward.max(self.kept + next.forward),
            backward: self.backward.max(self.kept + next.backward),
            alone: self.alone.max(next.alone),
        }
    }

    /// With at least this many temporary bytes in forward without a graph, for tensors that stay until a function
    /// returns.
    pub fn alone_at_least(self, bytes: f64) -> Self {
        Cost { alone: self.alone.max(bytes), ..self }
    }

    /// With bytes that exist throughout: a bypass of the layer, and its gradient.
    pub fn beside(self, bytes: f64) -> Self {
        Cost { backward: self.backward + bytes, alone: self.alone + bytes, ..self }
    }
}

/// Layers in sequence.
impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(parts: I) -> Self {
        parts.fold(Cost::default(), Cost::then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP32: ComputeMode = ComputeMode { kind: Kind::Float, cpu: true, train: true };

    /// By hand: 10 rows through [3, 2] and then [5, 3], fp32.
    #[test]
    fn parts_add_up() {
        let first = Cost::matmul(&FP32, 10.0, [3, 2], false);
        assert_eq!((first.flops, first.kept, first.forward), (120.0, 0.0, 120.0));
        // Gradients of input, output and weight.
        assert_eq!(first.backward, 80.0 + 120.0 + 24.0);
        let both = first.then(Cost::matmul(&FP32, 10.0, [5, 3], true));
        assert_eq!((both.flops, both.kept, both.forward), (120.0 + 300.0, 120.0, 120.0 + 200.0));
        assert_eq!(both.backward, 120.0 + 120.0 + 200.0 + 60.0);
        assert_eq!((both.alone, both.beside(7.0).alone), (320.0, 327.0));
        assert_eq!([first, first].into_iter().sum::<Cost>().flops, 240.0);
    }

    #[test]
    fn a_gpu_keeps_masks() {
        let gpu = ComputeMode { kind: Kind::BFloat16, cpu: false, train: true };
        assert_eq!((Cost::dropout(&gpu, 8.0, 0.1).kept, Cost::dropout(&FP32, 8.0, 0.1).kept), (8.0, 0.0));
        assert_eq!(Cost::dropout(&gpu, 8.0, 0.0), Cost::default());
    }
}
