//! The cost of attention with a window and global tokens.

use super::GlobalAttentionConfig;
use crate::data::extent::Extent;
use crate::ops::cost::{ComputeMode, Cost};

/// Queries and scores that `cpu.cpp` computes at a time, on the CPU and on a GPU.
const AT_A_TIME: [[f64; 2]; 2] = [[128.0, 262_144.0], [512.0, 16_777_216.0]];

impl GlobalAttentionConfig {
    /// Returns the cost over these sequences with this total number of global tokens, without inputs and outputs.
    pub fn cost(&self, how: &ComputeMode, x: &Extent, globals: f64) -> Cost {
        let (e, heads, head_dim) = (how.element(), self.heads as f64, self.head_dim as f64);
        let (width, window) = (heads * head_dim, self.window as f64);
        let of_sequence = globals / x.sequences.max(1.0);
        let both_sides = if globals > 0.0 { 5.0 } else { 3.0 };
        let input = (both_sides * x.tokens + globals) * width;

        let [most_queries, most_scores] = AT_A_TIME[usize::from(!how.cpu)];
        let queries = x.longest.min(most_queries);
        let keys = x.longest.min(queries + 2.0 * window + of_sequence);
        let of_head = (queries * keys).max(of_sequence.min(most_queries) * x.longest);
        // Neighbors of equal length are computed together: without padding, those of a rectangle.
        let together = if x.padded_queries == 0.0 { x.sequences / x.rectangles.max(1.0) } else { 1.0 };
        let block = of_head.max(most_scores).min(of_head * heads * together);
        let fraction = if of_head > 0.0 { block / of_head } else { 0.0 };
        let operands = |q: f64, k: f64| fraction * head_dim * (q * queries + k * keys);
        // Operands, scores, attention weights; in backward the sums of gradients, which half types round afterwards.
        let forward = 4.0 * (2.0 * block + operands(2.0, 2.0));
        let sums = if e < 4.0 { 4.0 * input } else { 0.0 };
        let backward = sums + 4.0 * (3.0 * block + operands(2.0, 3.0));

        let seen = x.longest.min(2.0 * window + 1.0 + of_sequence);
        let flops = 4.0 * width * (x.tokens * seen + globals * x.longest);
        let op = Cost::op(e * input, e * input, e * x.tokens * width, [forward, backward]);
        Cost { flops, attention_flops: flops, ..op }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    const CPU: ComputeMode = ComputeMode::training(Kind::Float, true);

    fn cost(lengths: &[i64], globals: f64) -> Cost {
        let config = GlobalAttentionConfig { heads: 12, head_dim: 64, scale: 0.125, dropout: 0.1, window: 256 };
        config.cost(&CPU, &Extent::of(lengths), globals)
    }

    /// By hand, of one sequence of 4,096 tokens: each attends to 513 positions and the first token, and that to all.
    #[test]
    fn flops_and_kept_bytes_are_proportional_to_the_length() {
        let long = cost(&[4096], 1.0);
        assert_eq!(long.flops, 4.0 * 768.0 * (4096.0 * 514.0 + 4096.0));
        assert_eq!(long.kept, 4.0 * 768.0 * (5.0 * 4096.0 + 1.0));
        assert_eq!(cost(&[4096], 0.0).kept, 4.0 * 768.0 * 3.0 * 4096.0);
        // The temporary memory is that of a block, whatever the length.
        let passing = |cost: Cost, n: f64| cost.forward - cost.kept - 4.0 * 768.0 * n;
        assert!((passing(long, 4096.0) - passing(cost(&[8192], 1.0), 8192.0)).abs() < 1.0);
    }
}
