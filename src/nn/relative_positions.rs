//! Embeddings of relative positions, which the layers of a model share.

use crate::data::ragged::Sequences;
use crate::nn::norm::Norm;
use crate::nn::{ComputeMode, Cost, Ctx, Init, ParamBuilder, ParamId, rng};
use crate::ops::dropout;
use tch::{Device, Kind, Tensor};

/// Configuration of [`RelativePositions`].
#[derive(Debug, Clone, Copy)]
pub struct RelativeConfig {
    pub hidden: i64,
    /// Number of embeddings on either side of distance 0; larger distances use the outermost.
    pub span: i64,
    /// The distance that logarithmic buckets reach; without them, each distance has an embedding.
    pub max_distance: Option<i64>,
    /// Epsilon of the layer norm of the embeddings, if there is one.
    pub norm: Option<f64>,
    /// Dropout on the embeddings.
    pub dropout: f64,
    /// Standard deviation of newly initialized embeddings.
    pub std: f64,
}

/// One embedding for each distance from a key to its query, or for each bucket of distances (arXiv 2006.03654, section
/// 3.1): half of the buckets have one distance each, the others grow logarithmically.
#[derive(Debug, Clone)]
pub struct RelativePositions {
    config: RelativeConfig,
    /// `[2 * span, hidden]`
    table: ParamId,
    norm: Option<Norm>,
}

impl RelativePositions {
    /// Declares `weight` `[2 * span, hidden]` and, if there is one, `norm`.
    pub fn new(b: &mut ParamBuilder, config: RelativeConfig) -> Self {
        let RelativeConfig { hidden, span, std, .. } = config;
        RelativePositions {
            config,
            table: b.weight("weight", &[2 * span, hidden], Init::Normal { std }),
            norm: config.norm.map(|eps| Norm::layer(b, "norm", hidden, eps)),
        }
    }

    /// Returns the embeddings that sequences of up to `longest` tokens need, `[n, hidden]`.
    pub fn embeddings(&self, ctx: &mut Ctx, longest: i64) -> Tensor {
        let [first, count] = self.range(longest);
        let rows = ctx.param(self.table).narrow(0, first, count);
        let rows = self.norm.as_ref().map_or(rows.shallow_clone(), |norm| norm.forward(ctx, &rows));
        ctx.dropout(rows, self.config.dropout)
    }

    /// Returns which of [`Self::embeddings`] the pairs of a row i and a column j of scores have, i64 `[2 * longest]`
    /// each, for i - j from `longest` down to `1 - longest`: rows of queries, and rows of keys.
    pub fn of_distances(&self, sequences: &Sequences, longest: i64) -> [Tensor; 2] {
        let RelativeConfig { span, max_distance, .. } = self.config;
        let key = rng::key(rng::hash_name("relative positions"), &[span as u64, max_distance.unwrap_or(0) as u64]);
        let make = || {
            let rows = self.rows(longest, sequences.positions().device());
            // A key's column is a query: the distance has the other sign.
            vec![rows.narrow(0, 0, 2 * longest), rows.narrow(0, 1, 2 * longest).flip([0])]
        };
        let both = sequences.derived(key, make);
        [0, 1].map(|side| both[side].shallow_clone())
    }

    /// i64 `[2 * longest + 1]`: the row of each distance from `longest` down to `-longest`.
    fn rows(&self, longest: i64, device: Device) -> Tensor {
        let RelativeConfig { span, max_distance, .. } = self.config;
        let distances = Tensor::arange_start_step(longest, -longest - 1, -1, (Kind::Int64, device));
        let distances = max_distance.map_or(distances.shallow_clone(), |far| buckets(&distances, span, far));
        let [first, count] = self.range(longest);
        (distances + (span - first)).clamp(0, count - 1)
    }

    /// Returns the first embedding that sequences of up to this length need, and how many: those of their distances, if
    /// each has its own, or all.
    fn range(&self, longest: i64) -> [i64; 2] {
        let RelativeConfig { span, max_distance, .. } = self.config;
        let single = if max_distance.is_some() { span / 2 } else { span };
        let farthest = (longest - 1).max(0);
        let side = if farthest <= single { farthest } else { span };
        [span - side, (2 * side + 1).min(span + side)]
    }

    /// Returns how many embeddings sequences of up to this length need.
    pub fn count(&self, longest: f64) -> f64 {
        self.range(longest as i64)[1] as f64
    }

    /// Whether their embeddings are activations and not rows of the matrix.
    pub fn computes(&self, how: &ComputeMode) -> bool {
        self.norm.is_some() || self.config.dropout > 0.0 && how.train
    }

    /// Returns the cost of [`Self::embeddings`].
    pub fn cost(&self, how: &ComputeMode, longest: f64) -> Cost {
        let rows = self.count(longest);
        let norm = self.norm.as_ref().map_or(Cost::default(), |norm| norm.cost(how, rows, false));
        norm.then(dropout::cost(how, rows * self.config.hidden as f64, self.config.dropout))
    }
}

/// Returns the bucket of each distance, from `-span` to `span` within `max_distance`: i64 to i64. The logarithm is
/// computed in fp32, as in transformers.
fn buckets(distances: &Tensor, span: i64, max_distance: i64) -> Tensor {
    let single = span / 2;
    let far = distances.abs().clamp_min(single).to_kind(Kind::Float) / single as f64;
    // A tensor, so that the quotient of equal logarithms is 1.
    let stretch = Tensor::full([1], (max_distance - 1) as f64 / single as f64, (Kind::Float, distances.device())).log();
    let steps = (far.log() / stretch * (single - 1) as f64).ceil().to_kind(Kind::Int64) + single;
    distances.where_self(&distances.abs().le(single), &(steps * distances.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(span: i64, max_distance: Option<i64>) -> RelativePositions {
        let config = RelativeConfig { hidden: 4, span, max_distance, norm: None, dropout: 0.0, std: 1.0 };
        RelativePositions::new(&mut ParamBuilder::new(), config)
    }

    fn ints(x: &Tensor) -> Vec<i64> {
        Vec::try_from(x).unwrap()
    }

    /// Values of `make_log_bucket_position` of transformers 5.24 for 256 buckets up to 512.
    #[test]
    fn buckets_are_those_of_transformers() {
        let distances: [i64; 12] = [0, 1, 127, 128, 129, 130, 200, 256, 300, 511, 512, 1000];
        let wanted = [0, 1, 127, 128, 129, 130, 169, 192, 207, 255, 256, 317];
        assert_eq!(ints(&buckets(&Tensor::from_slice(&distances), 256, 512)), wanted);
        let before = distances.map(|distance| -distance);
        assert_eq!(ints(&buckets(&Tensor::from_slice(&before), 256, 512)), wanted.map(|bucket| -bucket));
    }

    /// Rows of the whole matrix for each query and key: the bucket plus `span`, within the matrix.
    #[test]
    fn short_sequences_need_few_embeddings() {
        for (span, max_distance) in [(8, Some(32)), (8, None), (2, Some(9)), (1, None)] {
            for longest in [1, 2, 3, 5, 6, 9, 10, 40] {
                let positions = positions(span, max_distance);
                let [first, count] = positions.range(longest);
                assert!(first >= 0 && count > 0 && first + count <= 2 * span, "{span} {longest}: {first} {count}");
                let rows = ints(&positions.rows(longest, Device::Cpu));
                for (row, distance) in rows[1..2 * longest as usize].iter().zip((1 - longest..longest).rev()) {
                    let bucket = match max_distance {
                        Some(far) => ints(&buckets(&Tensor::from_slice(&[distance]), span, far))[0],
                        None => distance,
                    };
                    assert_eq!(row + first, (bucket + span).clamp(0, 2 * span - 1), "{span} {longest} {distance}");
                }
            }
        }
    }

    #[test]
    fn rows_of_keys_have_the_other_sign() {
        let sequences = Sequences::new(vec![3, 2]);
        let [queries, keys] = positions(8, None).of_distances(&sequences, 3);
        // Of the five distances from -2 to 2; the outermost entry belongs to no pair.
        assert_eq!((ints(&queries), ints(&keys)), (vec![4, 4, 3, 2, 1, 0], vec![0, 0, 1, 2, 3, 4]));
    }
}
