//! Attention within a sliding window and to global tokens (arXiv 2004.05150, section 3.1) over a packed batch.
//!
//! A token attends to the tokens of its window and to the global tokens of its sequence. A global token attends to its
//! whole sequence, by queries, keys and values of another projection. An autograd function (`cpu.cpp`: libtorch's
//! operations, on every device) keeps its inputs and computes the scores of a few queries at a time, without padding,
//! and again in backward: memory grows with the length and not with its square.

mod cost;

use super::attention::AttentionConfig;
use super::done;
use crate::ffi;
use std::ops::Range;
use tch::Tensor;

/// The shape of an attention with a window and global tokens, and its dropout.
#[derive(Debug, Clone, Copy)]
pub struct GlobalAttentionConfig {
    pub heads: i64,
    pub head_dim: i64,
    pub scale: f64,
    /// Dropout on the attention weights, in training.
    pub dropout: f64,
    /// Number of positions on each side of a token that it attends to.
    pub window: i64,
}

impl GlobalAttentionConfig {
    /// Returns the same attention, of as many heads of keys as of queries, within a window.
    pub fn within(attention: &AttentionConfig, window: i64) -> Self {
        let AttentionConfig { heads, head_dim, scale, dropout, .. } = *attention;
        GlobalAttentionConfig { heads, head_dim, scale, dropout, window }
    }
}

/// Computes attention of packed sequences of these lengths: `qkv` is `[T, 3 * heads * head_dim]`, queries, keys and
/// values side by side. `globals` are the global tokens of each sequence, as positions in it. If there are any, `global`
/// is their queries `[global tokens, heads * head_dim]` and the keys and values that they attend to, `[T, 2 * heads *
/// head_dim]`. Returns `[T, heads * head_dim]`; the dropout on the attention weights is (p, key).
pub fn attend(
    config: &GlobalAttentionConfig,
    qkv: &Tensor,
    global: Option<[&Tensor; 2]>,
    (lengths, globals): (&[i64], &[Range<i64>]),
    drops: Option<(f64, u64)>,
) -> Tensor {
    let GlobalAttentionConfig { heads, scale, window, .. } = *config;
    let out = ffi::ops::global_attention(qkv, global, &runs(lengths, globals), (heads, window), scale, drops);
    done(out, "attention", qkv)
}

/// Neighbors that are computed together: number, length, position and number of the global tokens.
fn runs(lengths: &[i64], globals: &[Range<i64>]) -> Vec<[i64; 4]> {
    let mut runs: Vec<[i64; 4]> = Vec::new();
    for (&length, own) in lengths.iter().zip(globals) {
        let next = [1, length, own.start, own.end - own.start];
        match runs.last_mut() {
            Some(run) if run[1..] == next[1..] => run[0] += 1,
            _ => runs.push(next),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
