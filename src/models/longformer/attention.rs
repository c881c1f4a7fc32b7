//! The attention layer: the projections of all tokens, and those of global attention.

use crate::data::extent::Extent;
use crate::nn::linear::Linear;
use crate::nn::{Ctx, Init, ParamBuilder};
use crate::ops::attention::joined;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::global_attention::{GlobalAttentionConfig, attend};
use std::ops::Range;
use tch::Tensor;

/// Projections, attention within a window and of global tokens, and the output projection.
#[derive(Debug)]
pub struct WindowedAttention {
    config: GlobalAttentionConfig,
    qkv: Linear,
    /// Queries of the global tokens; keys and values that they attend to.
    global: Option<[Linear; 2]>,
    out: Linear,
}

impl WindowedAttention {
    /// Declares `qkv` `[3 * hidden, hidden]`, `global.q` `[hidden, hidden]`, `global.kv` `[2 * hidden, hidden]` and
    /// `out` `[hidden, hidden]`. Without global tokens those for them are never trained.
    pub fn new(b: &mut ParamBuilder, config: GlobalAttentionConfig, has_global: bool, std: f64) -> Self {
        let hidden = config.heads * config.head_dim;
        let qkv = Linear::new(b, "qkv", hidden, 3 * hidden, std);
        let parts = [("q", hidden), ("kv", 2 * hidden)];
        let global = b.scope("global", |b| {
            if has_global {
                return Some(parts.map(|(name, rows)| Linear::new(b, name, hidden, rows, std)));
            }
            for (name, rows) in parts {
                b.scope(name, |b| {
                    b.constant("weight", &[rows, hidden], Init::Normal { std });
                    b.constant("bias", &[rows], Init::Zeros);
                });
            }
            None
        });
        WindowedAttention { config, qkv, global, out: Linear::new(b, "out", hidden, hidden, std) }
    }

    /// `[T, hidden]` to `[T, hidden]`, of sequences of these lengths; `globals` are the positions of the global tokens
    /// of each.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, lengths: &[i64], globals: &[Range<i64>]) -> Tensor {
        let qkv = self.qkv.forward(ctx, x);
        let global = match &self.global {
            Some([q, kv]) if globals.iter().any(|own| !own.is_empty()) => {
                Some([q.forward(ctx, &rows(x, lengths, globals)), kv.forward(ctx, x)])
            }
            _ => None,
        };
        let drops = ctx.drops(self.config.dropout);
        let global = global.as_ref().map(|[q, kv]| [q, kv]);
        let attended = attend(&self.config, &qkv, global, (lengths, globals), drops);
        self.out.forward(ctx, &attended)
    }

    /// Returns the cost of the layer over these sequences with this number of global tokens; other parts keep its
    /// input.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, globals: f64) -> Cost {
        let e = how.element() * (self.config.heads * self.config.head_dim) as f64;
        let mut parts = vec![self.qkv.cost(how, x.tokens, false)];
        if let Some([q, kv]) = &self.global {
            parts.extend([q.cost(how, globals, true), kv.cost(how, x.tokens, false)]);
        }
        let kernel = self.config.cost(how, x, globals);
        parts.extend([kernel, self.out.cost(how, x.tokens, true)]);
        let all: Cost = parts.into_iter().sum();
        // The projections stay until the layer returns.
        let projections = if self.global.is_some() { 5.0 * x.tokens + globals } else { 3.0 * x.tokens };
        all.alone_at_least(e * (projections + 2.0 * x.tokens))
    }
}

/// Returns the rows of the global tokens of all sequences, in order.
fn rows(x: &Tensor, lengths: &[i64], globals: &[Range<i64>]) -> Tensor {
    let sizes = lengths.iter().zip(globals).flat_map(|(n, own)| [own.start, own.end - own.start, n - own.end]);
    let parts = x.split_with_sizes(sizes.collect::<Vec<i64>>(), 0);
    joined(parts.into_iter().skip(1).step_by(3).collect())
}
