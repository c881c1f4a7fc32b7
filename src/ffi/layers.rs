//! Layers with a custom backward, for the CPU.
//!
//! Layers named `half_` take bf16 or fp16 tensors, compute in fp32, round each result once, and save only half tensors
//! (and one or two numbers per row) for backward. They save a weight itself, not a copy, because its storage may be
//! freed between forward and backward.

use super::{Handle, Message, check, handle};
use crate::error::Result;
use std::ptr::null_mut;
use tch::Tensor;

unsafe extern "C" {
    fn trainer_dropout(out: *mut Handle, x: Handle, p: f64, key: i64) -> Message;
    fn trainer_half_linear(out: *mut Handle, x: Handle, weight: Handle, bias: Handle) -> Message;
    fn trainer_half_layer_norm(out: *mut Handle, x: Handle, weight: Handle, bias: Handle, eps: f64) -> Message;
    #[allow(clippy::too_many_arguments)]
    fn trainer_half_attention(
        out: *mut Handle,
        q: Handle,
        k: Handle,
        v: Handle,
        mask: Handle,
        scale: f64,
        p: f64,
        key: i64,
    ) -> Message;
}

/// Takes ownership of the tensor that `make` writes.
fn made(make: impl FnOnce(*mut Handle) -> Message) -> Result<Tensor> {
    let mut out: Handle = null_mut();
    check(make(&mut out))?;
    // SAFETY: on success `out` is a new at::Tensor, whose ownership passes to the tch tensor.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

fn optional(tensor: Option<&Tensor>) -> Handle {
    tensor.map_or_else(null_mut, handle)
}

/// Dropout whose mask is a pure function of `key` and the element's index, the same for fp32, bf16 and fp16.
///
/// Each element is kept with probability `1 - p` and scaled by `1 / (1 - p)`. The mask is not saved for backward.
pub fn dropout(x: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    // SAFETY: a live tensor.
    made(|out| unsafe { trainer_dropout(out, handle(x), p, key.cast_signed()) })
}

/// `x W^T + b`: x `[T, in]`, W `[out, in]`, b `[out]`.
pub fn half_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    // SAFETY: live tensors, and null for no bias.
    made(|out| unsafe { trainer_half_linear(out, handle(x), handle(weight), optional(bias)) })
}

/// Layer normalization over the last dimension of `x`; weight and bias have its size.
pub fn half_layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    // SAFETY: live tensors.
    made(|out| unsafe { trainer_half_layer_norm(out, handle(x), handle(weight), handle(bias), eps) })
}

/// `dropout(softmax(scale q k^T + mask)) v` of `[n, heads, length, head_dim]`, with an f32 mask that broadcasts to
/// `[n, heads, length, length]`. The dropout, if any, is (p, key) as in [`dropout`].
pub fn half_attention(
    [q, k, v]: [&Tensor; 3],
    mask: Option<&Tensor>,
    scale: f64,
    dropout: Option<(f64, u64)>,
) -> Result<Tensor> {
    let (p, key) = dropout.unwrap_or((0.0, 0));
    // SAFETY: live tensors, and null for no mask.
    made(|out| unsafe {
        let (q, k, v) = (handle(q), handle(k), handle(v));
        trainer_half_attention(out, q, k, v, optional(mask), scale, p, key.cast_signed())
    })
}
