//! The autograd functions of [`crate::ops`] in C++, which documents them. [`half_linear`] and [`attention`] are for CPU
//! tensors, [`linear_cross_entropy`] for any, the others for tensors with an implementation
//! ([`super::kernels::available`]).

use super::{Handle, Message, check, handle};
use crate::error::Result;
use std::ptr::null_mut;
use tch::Tensor;

unsafe extern "C" {
    fn trainer_dropout(out: *mut Handle, x: Handle, p: f64, key: i64) -> Message;
    fn trainer_half_linear(out: *mut Handle, x: Handle, weight: Handle, bias: Handle) -> Message;
    fn trainer_rotary(out: *mut Handle, x: Handle, cos: Handle, sin: Handle, heads: i64) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_linear_cross_entropy(
        out: *mut Handle,
        x: Handle,
        weight: Handle,
        bias: Handle,
        classes: Handle,
        smoothing: f64,
        rows: i64,
        upcast: bool,
    ) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_residual_norm(
        out: *mut Handle,
        x: Handle,
        residual: Handle,
        weight: Handle,
        bias: Handle,
        layer: bool,
        eps: f64,
        p: f64,
        key: i64,
    ) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_gated_linear(
        out: *mut Handle,
        x: Handle,
        weight: Handle,
        bias: Handle,
        activation: i64,
        p: f64,
        key: i64,
        upcast: bool,
    ) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_attention(
        out: *mut Handle,
        q: Handle,
        k: Handle,
        v: Handle,
        mask: Handle,
        scale: f64,
        causal: bool,
        window: i64,
        p: f64,
        key: i64,
    ) -> Message;
}

/// Takes ownership of the N tensors that `make` writes.
fn made<const N: usize>(make: impl FnOnce(*mut Handle) -> Message) -> Result<[Tensor; N]> {
    let mut out: [Handle; N] = [null_mut(); N];
    check(make(out.as_mut_ptr()))?;
    // SAFETY: on success each is a new at::Tensor, whose ownership passes to the tch tensor.
    Ok(out.map(|tensor| unsafe { Tensor::from_ptr(tensor.cast()) }))
}

fn one(make: impl FnOnce(*mut Handle) -> Message) -> Result<Tensor> {
    made(make).map(|[tensor]| tensor)
}

fn optional(tensor: Option<&Tensor>) -> Handle {
    tensor.map_or_else(null_mut, handle)
}

/// A dropout as probability and key; none is probability 0.
fn split(drops: Option<(f64, u64)>) -> (f64, i64) {
    drops.map_or((0.0, 0), |(p, key)| (p, key.cast_signed()))
}

/// Dropout whose mask is a pure function of `key` and the element's index, the same for fp32, bf16 and fp16.
///
/// Each element is kept with probability `1 - p` and scaled by `1 / (1 - p)`. The mask is not saved for backward.
pub fn dropout(x: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    // SAFETY: a live tensor.
    one(|out| unsafe { trainer_dropout(out, handle(x), p, key.cast_signed()) })
}

/// `x W^T + b` of half tensors in fp32: x `[T, in]`, W `[out, in]`, b `[out]`.
pub fn half_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    // SAFETY: live tensors, and null for no bias.
    one(|out| unsafe { trainer_half_linear(out, handle(x), handle(weight), optional(bias)) })
}

/// Rotates the first `heads` heads of the rows of a contiguous `x` `[T, columns]` in place by angles `[T, head_dim/2]`.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor, heads: i64) -> Result<Tensor> {
    // SAFETY: live tensors.
    one(|out| unsafe { trainer_rotary(out, handle(x), handle(cos), handle(sin), heads) })
}

/// The cross entropy of `x W^T + b` `[n, classes]`, of which `rows` rows exist at a time: losses f32 `[n]` without a
/// graph, and their sum with one. With `upcast`, half matrices are multiplied in fp32. On any device.
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    classes: &Tensor,
    smoothing: f64,
    rows: i64,
    upcast: bool,
) -> Result<[Tensor; 2]> {
    // SAFETY: live tensors, and null for no bias.
    made(|out| unsafe {
        let (x, weight, classes) = (handle(x), handle(weight), handle(classes));
        trainer_linear_cross_entropy(out, x, weight, optional(bias), classes, smoothing, rows, upcast)
    })
}

/// `sum = residual + dropout(x)`, of rows `[T, size]`, and its norm: returns norm and sum. Layer norm if `layer`, else
/// RMS norm.
pub fn residual_norm(
    x: &Tensor,
    residual: &Tensor,
    drops: Option<(f64, u64)>,
    (weight, bias): (&Tensor, Option<&Tensor>),
    layer: bool,
    eps: f64,
) -> Result<[Tensor; 2]> {
    let (p, key) = split(drops);
    let (weight, bias) = (handle(weight), optional(bias));
    // SAFETY: live tensors, and null for no bias.
    made(|out| unsafe { trainer_residual_norm(out, handle(x), handle(residual), weight, bias, layer, eps, p, key) })
}

/// The norm of rows `[T, size]`.
pub fn norm(x: &Tensor, (weight, bias): (&Tensor, Option<&Tensor>), layer: bool, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (handle(weight), optional(bias));
    // SAFETY: live tensors, and null for what is absent.
    one(|out| unsafe { trainer_residual_norm(out, handle(x), null_mut(), weight, bias, layer, eps, 0.0, 0) })
}

/// `dropout(f(gate) * up) W^T + b` of `x` `[T, 2 * inner]`; f is the number of an activation.
pub fn gated_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: i64,
    drops: Option<(f64, u64)>,
    upcast: bool,
) -> Result<Tensor> {
    let (p, key) = split(drops);
    // SAFETY: live tensors, and null for no bias.
    one(|out| unsafe {
        trainer_gated_linear(out, handle(x), handle(weight), optional(bias), activation, p, key, upcast)
    })
}

/// `dropout(softmax(scale q k^T + mask)) v` of `[n, heads, length, head_dim]`, with an f32 mask `[n, 1, 1, keys]`, over
/// the keys less than `window` positions away (all if 0), if `causal` those up to the query's position.
pub fn attention(
    [q, k, v]: [&Tensor; 3],
    mask: Option<&Tensor>,
    scale: f64,
    (causal, window): (bool, i64),
    drops: Option<(f64, u64)>,
) -> Result<Tensor> {
    let (p, key) = split(drops);
    // SAFETY: live tensors, and null for no mask.
    one(|out| unsafe {
        let (q, k, v) = (handle(q), handle(k), handle(v));
        trainer_attention(out, q, k, v, optional(mask), scale, causal, window, p, key)
    })
}
