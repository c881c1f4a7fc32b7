//! The cost of the attention kernel, for each of the code paths of [`super::attend`].

use super::fused::BAND;
use super::{AttentionConfig, Mask};
use crate::data::extent::Extent;
use crate::ops::cost::{ComputeMode, Cost};

/// The context of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// Queries, keys and values are columns of one matmul result, which nothing else keeps.
    Joined,
    /// Queries are separate from keys and values, which are columns of one matmul result.
    Apart,
    /// As `Separate`, with a bias added to the scores.
    Biased,
}

/// Queries, those of heads that share their keys, and scores that `cpu.cpp` computes at a time.
const QUERIES: f64 = 128.0;
const SHARED_QUERIES: f64 = 64.0;
const SCORES: f64 = 262_144.0;

impl AttentionConfig {
    /// Returns the cost of the kernel over these sequences, without its inputs and outputs.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, around: Around) -> Cost {
        let (e, heads) = (how.element(), self.heads as f64);
        let (width, kv_width) = (heads * self.head_dim as f64, (self.kv_heads * self.head_dim) as f64);
        let drops = self.dropout > 0.0 && how.train;
        let (input, output) = (e * (x.queries * width + 2.0 * x.keys * kv_width), e * x.tokens * width);
        let largest = heads * x.largest;
        let masked = if self.mask != Mask::Bidirectional || x.padded_keys > 0.0 { 1.0 } else { 0.0 };
        let biased = around == Around::Biased;
        // A rectangle without padding is a view of the tensor of all tokens, which is kept whole.
        let held = |padded: f64, positions: f64, tokens: f64| padded + if padded < positions { tokens } else { 0.0 };
        let queries = held(x.padded_queries, x.queries, x.tokens);
        let keys = held(x.padded_keys, x.keys, x.key_tokens);
        let window = self.mask.window().filter(|&window| (window as f64) < x.longest);
        let shares = heads / self.kv_heads as f64;
        let shared = shares > 1.0 && self.mask.is_causal();
        let own_kernel = how.cpu && !biased && (drops || how.widens() || window.is_some() || shared);
        // The number of keys that a query, or a block of queries, attends to.
        let at_a_time = if shares > 1.0 { SHARED_QUERIES } else { QUERIES };
        let seen_keys = self.mask.reach() + if own_kernel { at_a_time } else { 0.0 };
        let op = if biased {
            // Scores and weights are tensors. The bias is added in fp32 where half layers compute in fp32.
            let e = if how.widens() { 4.0 } else { e };
            let factors = x.queries * width + 2.0 * x.keys * width;
            // The keys of a single sequence are not copied.
            let columns = x.tokens * (width + 2.0 * kv_width) - 2.0 * x.alone * width;
            let whole = if around == Around::Joined && x.alone > 0.0 { columns } else { 0.0 };
            let mask_byte = if drops && !how.cpu { heads * x.pairs } else { 0.0 };
            let weights = if drops { 2.0 } else { 1.0 } * heads * x.pairs;
            let kept = e * (factors + whole + weights) + mask_byte;
            let passing = 1.0 + masked + if biased { 1.0 } else { 0.0 };
            let op = Cost::op(kept, input, output, [passing * e * largest, e * largest]);
            Cost { alone: op.alone + e * factors, ..op }
        } else if own_kernel {
            // Queries, keys and values; scores of a few queries and key heads at a time, with their fp32 operands.
            let seen = match around {
                Around::Joined => queries * (width + 2.0 * kv_width),
                _ => queries * width + 2.0 * keys * kv_width,
            };
            let row = shares * x.longest.min(at_a_time) * x.longest.min(seen_keys);
            let largest = heads * x.largest.min(x.widest[0] * seen_keys);
            let block = largest.min(row.max(SCORES));
            let fraction = if largest > 0.0 { block / largest } else { 0.0 };
            let [q, k] = x.widest.map(|positions| fraction * width * positions);
            let forward = 4.0 * (block + 2.0 * q + k);
            Cost::op(e * seen, input, output, [forward, 4.0 * (2.0 * block + q + k)])
        } else {
            let grouped = self.kv_heads != self.heads;
            let seen = match around {
                _ if grouped => queries * width + 2.0 * x.keys * width,
                Around::Joined => queries * (width + 2.0 * kv_width),
                _ => queries * width + 2.0 * keys * width,
            };
            // The result is kept beside the next layer's input if padding is removed or rectangles are concatenated.
            let picked = if x.rectangles > 1.0 { x.queries } else { x.padded_queries };
            let result = e * picked * width + 4.0 * heads * x.queries;
            // A causal mask has all pairs of a rectangle, a padding mask its keys.
            let masked = if self.mask.is_causal() { x.largest } else { x.padded_keys };
            let mask = if how.cpu { 4.0 * masked } else { 0.0 };
            // On GPUs, fp32 has no kernel for bidirectional windows; their masks are kept.
            let in_bands = window.filter(|_| !how.cpu && !self.mask.is_causal() && e == 4.0);
            let masks = in_bands
                .map_or(0.0, |window| e * x.queries * x.longest.min((BAND.max(4 * window) + 2 * window) as f64));
            Cost::op(e * seen + result + masks, input, output, [mask, 0.0])
        };
        // Backward concatenates the gradients of queries, keys and values.
        let op = Cost { backward: op.backward + input, ..op };
        let flops = 4.0 * x.pairs.min(x.queries * seen_keys) * width;
        Cost { flops, attention_flops: flops, ..op }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// Two sequences of 8 tokens, 2 heads of 4: computed by hand.
    #[test]
    fn flops_are_those_of_two_products() {
        let config =
            AttentionConfig { heads: 2, kv_heads: 2, head_dim: 4, scale: 0.5, dropout: 0.1, mask: Mask::Bidirectional };
        let cost = config.cost(
            &ComputeMode { kind: Kind::Float, cpu: true, train: true },
            &Extent::of(&[8, 8]),
            Around::Joined,
        );
        // q k^T: 2 sequences x 2 heads x 8 x 8 x 4 multiplications; weights v: the same.
        assert_eq!(cost.flops, 2.0 * 2.0 * (2 * 2 * 8 * 8 * 4) as f64);
        // Queries, keys and values; the weights are computed again.
        assert_eq!(cost.kept, 4.0 * (3 * 16 * 8) as f64);
    }

    /// Twice the length: twice the work and the memory.
    #[test]
    fn windows_cost_in_proportion_to_the_length() {
        for mask in [Mask::SlidingWindow(64), Mask::BidirectionalWindow(65)] {
            let config = AttentionConfig { heads: 12, kv_heads: 12, head_dim: 64, scale: 0.1, dropout: 0.0, mask };
            for (kind, cpu) in [(Kind::Float, true), (Kind::BFloat16, true), (Kind::Float, false)] {
                let how = ComputeMode { kind, cpu, train: true };
                let of = |length| config.cost(&how, &Extent::of(&[length]), Around::Joined);
                let (once, twice) = (of(4096), of(8192));
                let ratios = [twice.flops / once.flops, twice.kept / once.kept, twice.backward / once.backward];
                assert!(ratios.iter().all(|ratio| (1.9..2.01).contains(ratio)), "{mask:?}, {kind:?}: {ratios:?}");
            }
        }
    }
}
