//! A linear layer and the cross entropy of its outputs, without a tensor of all logits.
//!
//! A vocabulary has up to hundreds of thousands of entries, so that the logits of a batch, their softmax and their
//! gradient would be its largest tensors. Here they exist for a few rows at a time. Forward also computes the gradients
//! of the layer's input, weight and bias, since the gradient of a row's loss follows from its logits; backward
//! multiplies them by the root's gradient.

use super::cost::{ComputeMode, Cost};
use super::done;
use super::linear::{self, Matmul};
use crate::ffi;
use tch::{Kind, Tensor};

/// Bytes of fp32 logits that exist at a time, unless 64 rows have more.
const LOGITS: f64 = 8e6;
const FEWEST: f64 = 64.0;

/// A linear layer that is not computed yet: `x W^T + b`.
#[derive(Debug)]
pub struct Projection {
    /// `[n, width]`.
    pub x: Tensor,
    /// `[classes, width]`.
    pub weight: Tensor,
    /// `[classes]`.
    pub bias: Option<Tensor>,
}

/// The loss of each target, and the root of the graph.
#[derive(Debug)]
pub struct Losses {
    /// f32 `[n]`.
    pub values: Tensor,
    /// What backward starts from: `values`, or their sum if only that has a graph.
    pub root: Tensor,
}

impl From<Tensor> for Losses {
    fn from(values: Tensor) -> Self {
        Losses { root: values.shallow_clone(), values }
    }
}

impl Projection {
    /// Returns all logits, `[n, classes]`.
    pub fn logits(&self) -> Tensor {
        linear::linear(&self.x, &self.weight, self.bias.as_ref())
    }

    /// Returns the cross entropy of each row with its class, i64 `[n]`, computed in fp32; `smoothing` is the label
    /// smoothing (arXiv 1512.00567, section 7).
    ///
    /// # Panics
    /// If a class is out of range, or memory is exhausted.
    pub fn cross_entropy(&self, classes: &Tensor, smoothing: f64) -> Losses {
        let Projection { x, weight, bias } = self;
        let rows = rows(weight.size()[0] as f64) as i64;
        let upcast = linear::upcasts(x);
        let losses = ffi::ops::linear_cross_entropy(x, weight, bias.as_ref(), classes, smoothing, rows, upcast);
        let [values, root] = done(losses, "cross entropy", x);
        Losses { values, root }
    }
}

/// Number of rows whose logits exist at a time.
fn rows(classes: f64) -> f64 {
    (LOGITS / (4.0 * classes)).floor().max(FEWEST)
}

/// Returns the cost of the losses of `n` rows, for a layer `[classes, width]`, whose weight may be frozen.
pub fn cost(how: &ComputeMode, n: f64, [classes, width]: [i64; 2]) -> Cost {
    let (classes, width) = (classes as f64, width as f64);
    let (e, count) = (how.element(), rows(classes).min(n));
    let logits = 4.0 * count * classes;
    let upcast = how.widens() && linear::matmul(how.kind) == Matmul::Upcast;
    let copies = if how.kind == Kind::Float {
        0.0
    } else if upcast {
        4.0 * (classes + count) * width
    } else {
        e * count * classes
    };
    // The gradients of input and weight in fp32, and a product to be added.
    let trained = if how.frozen_vocabulary { 0.0 } else { classes };
    let gradients = 4.0 * (n + trained) * width;
    let product = 4.0 * width * if how.kind == Kind::Float { count } else { count.max(trained) };
    let rounded = if how.kind == Kind::Float { 0.0 } else { e * (n + trained) * width };
    Cost {
        flops: 2.0 * n * classes * width,
        // Forward computes gradients too.
        kept: gradients,
        forward: gradients + logits + copies + product,
        backward: gradients + rounded + if how.kind == Kind::Float { 0.0 } else { e * n * width },
        alone: logits + copies + e * n * width,
        ..Cost::default()
    }
}

#[cfg(test)]
mod tests;
