//! The cost of running a layer: FLOPs and bytes of its tensors, from shapes alone.
//!
//! Every layer states what its forward keeps for backward, and its temporary memory. A layer counts the inputs that it
//! keeps, not its output: that is an input of the next. `tests/plan_blocks.rs` compares the sums with measured bytes.

use std::iter::Sum;
use tch::Kind;

/// How tensors are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComputeMode {
    /// The compute type.
    pub kind: Kind,
    /// Whether on the CPU, with the operations of [`crate::ffi::ops`].
    pub cpu: bool,
    /// Whether there is dropout.
    pub train: bool,
    /// Whether training adds noise to the token embeddings (NEFTune).
    pub noise: bool,
    /// Whether the matrix of a language-model head is frozen, so that it has no gradient.
    pub frozen_vocabulary: bool,
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
    /// Training on this device, without noise and with a trained vocabulary.
    pub const fn training(kind: Kind, cpu: bool) -> Self {
        ComputeMode { kind, cpu, train: true, noise: false, frozen_vocabulary: false }
    }

    /// Evaluation by the same run.
    pub fn evaluation(self) -> Self {
        ComputeMode { train: false, noise: false, ..self }
    }

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
