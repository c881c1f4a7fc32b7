//! Relative position bias of attention scores.

use crate::ffi::transfer::Constant;
use crate::nn::attention::Mask;
use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A bias for each head and each bucket of distances, which all layers of a stack add to their scores.
#[derive(Debug, Clone)]
pub struct RelativeBias {
    /// `[buckets, heads]`
    table: ParamId,
    buckets: Buckets,
    /// i64 `[2 * max_distance + 1]`: the bucket of each distance from `-max_distance` on. Larger distances use the last
    /// bucket.
    of_distance: Arc<Constant>,
}

/// The buckets of distances: half of them have one distance each, the others grow logarithmically, and the last has all
/// from `max_distance` on (arXiv 1910.10683, section 2.1).
#[derive(Debug, Clone, Copy)]
pub struct Buckets {
    pub count: i64,
    pub max_distance: i64,
    /// Whether keys after the query have separate buckets.
    pub both_sides: bool,
}

impl RelativeBias {
    /// Declares `weight` `[buckets, heads]` in the block of the stack's first layer.
    /// Returns the buckets of a stack.
    pub fn new(b: &mut ParamBuilder, name: &str, buckets: Buckets, heads: i64, std: f64) -> Self {
        let table = b.scope(name, |b| b.bias_table("weight", &[buckets.count, heads], Init::Normal { std }));
        let distances =
            Tensor::arange_start(-buckets.max_distance, buckets.max_distance + 1, (Kind::Int64, Device::Cpu));
        RelativeBias { table, buckets, of_distance: Arc::new(Constant::new(buckets.of(&distances))) }
    }

    /// The same bias for the builder's block, a later one.
    pub fn shared(&self, b: &mut ParamBuilder) -> Self {
        b.borrow(self.table);
        self.clone()
    }

    /// The bias matrix, `[buckets, heads]`.
    pub fn table<'a>(&self, ctx: &Ctx<'a>) -> &'a Tensor {
        ctx.param(self.table)
    }

    /// f32 `[1, heads, queries, keys]`, from the bias matrix. The last query is at the last key's position.
    pub fn scores(&self, table: &Tensor, queries: i64, keys: i64) -> Tensor {
        // In fp32, so that the gradient of a bucket is accumulated in fp32 and rounded once.
        let table = table.to_kind(Kind::Float);
        // Each diagonal has one distance: a value per distance, then windows of `keys` values, last query first.
        let (device, last) = (table.device(), self.buckets.max_distance);
        let distances = Tensor::arange_start(1 - keys, queries, (Kind::Int64, device));
        let buckets = self.of_distance.on(device).index_select(0, &(distances.clamp(-last, last) + last));
        let diagonals = table.index_select(0, &buckets);
        diagonals.tr().contiguous().unfold(1, keys, 1).flip([1]).unsqueeze(0)
    }
}

impl Buckets {
    pub fn new(count: i64, max_distance: i64, mask: Mask) -> Self {
        Buckets { count, max_distance, both_sides: mask == Mask::Bidirectional }
    }

    /// Returns the bucket of each distance, key position minus query position: i64 to i64 of the same shape, on the
    /// CPU. The logarithm is computed in fp32, as in transformers: some distances are exactly between two buckets.
    fn of(&self, distances: &Tensor) -> Tensor {
        let (count, behind) = match self.both_sides {
            true => (self.count / 2, distances.gt(0).to_kind(Kind::Int64) * (self.count / 2)),
            false => (self.count, distances.zeros_like()),
        };
        let distances = if self.both_sides { distances.abs() } else { -distances.clamp_max(0) };
        let exact = count / 2;
        let stretch = (self.max_distance as f64 / exact as f64).ln();
        let log = (distances.to_kind(Kind::Float) / exact as f64).log() / stretch * (count - exact) as f64;
        // The logarithm of small distances is unused.
        let far = (log.clamp_min(0.0).to_kind(Kind::Int64) + exact).clamp_max(count - 1);
        distances.where_self(&distances.lt(exact), &far) + behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;

    fn of(both_sides: bool, distances: &[i64]) -> Vec<i64> {
        let buckets = Buckets { count: 32, max_distance: 128, both_sides };
        Vec::try_from(buckets.of(&Tensor::from_slice(distances))).unwrap()
    }

    /// Values of `T5Attention._relative_position_bucket` of transformers 5.23, including bucket boundaries.
    #[test]
    fn buckets_are_those_of_transformers() {
        let behind = [1, 7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91, 127, 128, 500];
        let two_sided = [17, 23, 24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 31, 31, 31, 31];
        assert_eq!(of(true, &behind), two_sided);
        let before = behind.map(|distance| -distance);
        assert_eq!(of(true, &before), two_sided.map(|bucket| bucket - 16));
        assert_eq!(of(false, &behind), [0; 20]);
        let causal = [1, 7, 8, 11, 12, 15, 16, 18, 18, 21, 21, 23, 24, 26, 26, 29, 29, 31, 31, 31];
        assert_eq!(of(false, &before), causal);
        assert_eq!((of(true, &[0]), of(false, &[0])), (vec![0], vec![0]));
    }

    #[test]
    fn scores_lie_along_diagonals() {
        let mut b = ParamBuilder::new();
        let buckets = Buckets::new(32, 128, Mask::Bidirectional);
        let bias = RelativeBias::new(&mut b, "bias", buckets, 2, 1.0);
        let params = Params::new(b.finish(), 1, Kind::Float, Device::Cpu, false).unwrap();
        let table = Tensor::arange(64, (Kind::Float, Device::Cpu)).view([32, 2]);
        assert_eq!(bias.table(&Ctx::eval(&params)).size(), [32, 2]);
        let scores = bias.scores(&table, 3, 5);
        assert_eq!(scores.size(), [1, 2, 3, 5]);
        for (head, query, key) in [(0, 0, 0), (0, 0, 4), (1, 2, 4), (1, 1, 3), (0, 2, 0)] {
            let bucket = of(true, &[key - (query + 2)])[0];
            assert_eq!(scores.double_value(&[0, head, query, key]), (2 * bucket + head) as f64);
        }
    }
}
