//! The load that the data puts on a rank: its largest micro-batch, and the rows of embedding matrices used per step.

use crate::data::{Dataset, Extents, Sampler, eval_plan};
use crate::nn::{Cost, Layout};
use std::collections::BTreeSet;

/// Maximum number of samples examined; the rest of a longer run is assumed to be similar.
const LOOKED_AT: u64 = 2_000_000;
/// Maximum number of evaluation examples examined.
const EVALUATED: usize = 200_000;

/// What a teacher adds to the memory of a rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Teaching {
    /// Elements of its weights: all, and a rank's shards.
    pub elements: [f64; 2],
    /// The most elements of two successive blocks, which are gathered at a time if weights are sharded.
    pub gathered: f64,
    /// The most bytes of activations of a block in the heaviest micro-batch.
    pub activations: f64,
}

impl Teaching {
    /// Computes it for a model with this layout; `costs` are those of its blocks without gradients.
    pub fn new(layout: &Layout, costs: &[Cost]) -> Self {
        let elements = |units: &BTreeSet<usize>| units.iter().map(|&unit| layout.padded(unit) as f64).sum::<f64>();
        let of_pair = |block: usize| layout.of_block(block).chain(layout.of_block(block + 1)).collect();
        let pairs = (1..costs.len()).map(|block| elements(&of_pair(block - 1)));
        let whole = elements(&(0..layout.units().len()).collect());
        Teaching {
            elements: [whole, whole / layout.shards() as f64],
            gathered: pairs.fold(0.0, f64::max),
            activations: costs.iter().map(|cost| cost.alone).fold(0.0, f64::max),
        }
    }
}

/// The load of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// The heaviest micro-batch of all steps and ranks.
    pub busiest: Extents,
    /// The step that contains it, from 0.
    pub step: u64,
    /// The heaviest micro-batch of an evaluation.
    pub evaluation: Option<Extents>,
    /// Maximum number of rows of an embedding matrix used in a step.
    pub rows: f64,
    /// Maximum bytes of a step's index tensors on a rank.
    pub batch_bytes: f64,
    /// The teacher, if there is one.
    pub teacher: Option<Teaching>,
}

impl Load {
    /// Computes the load of the first `steps` steps of a sampler; `weigh` returns the weight of a micro-batch.
    pub fn of(dataset: &Dataset, sampler: &Sampler, steps: u64, weigh: impl Fn(&Extents) -> f64) -> Self {
        let mut sampler = sampler.clone();
        let (mut load, mut most, mut samples) = (Load::default(), 0.0, 0);
        let has_noise = dataset.objective().neftune_alpha > 0.0;
        // For each token id, the last step that contains it.
        let mut seen: Vec<u64> = Vec::new();
        for step in 0..steps {
            let plan = sampler.plan(step);
            let mut rows = 0.0;
            for shard in &plan.shards {
                let mut bytes = 0.0;
                for micro in shard {
                    let extents = Extents::in_epoch(dataset, micro, plan.epoch);
                    let weight = weigh(&extents);
                    if weight > most {
                        (load.busiest, load.step, most) = (extents, step, weight);
                    }
                    bytes += index_bytes(&extents, has_noise);
                    for &i in micro {
                        for &id in dataset.ids_in(i as usize, plan.epoch).iter() {
                            let id = id as usize;
                            if id >= seen.len() {
                                seen.resize(id + 1, 0);
                            }
                            rows += if seen[id] == step + 1 { 0.0 } else { 1.0 };
                            seen[id] = step + 1;
                        }
                    }
                }
                load.batch_bytes = load.batch_bytes.max(bytes);
            }
            load.rows = load.rows.max(rows);
            samples += plan.sequences as u64;
            if samples >= LOOKED_AT {
                break;
            }
        }
        load.batch_bytes += 8.0 * load.rows;
        load
    }

    /// Adds the load of an evaluation on `ranks` ranks.
    pub fn evaluating(
        self,
        dataset: &Dataset,
        world: usize,
        micro_batch_tokens: usize,
        weigh: impl Fn(&Extents) -> f64,
    ) -> Self {
        let lengths = dataset.lengths();
        let plan = eval_plan(&lengths[..lengths.len().min(EVALUATED)], world, micro_batch_tokens);
        let all = plan.iter().flatten().map(|micro| Extents::of(dataset, micro));
        let heavier = |best: Option<(f64, Extents)>, x: Extents| {
            let weight = weigh(&x);
            if best.is_some_and(|(most, _)| most >= weight) { best } else { Some((weight, x)) }
        };
        let so_far = self.evaluation.map(|x| (weigh(&x), x));
        Load { evaluation: all.fold(so_far, heavier).map(|(_, x)| x), ..self }
    }
}

/// Bytes of token ids, segments and positions (i64), of the keys (i64) and scales (f32) of noise, and of the indices
/// and masks for padding in attention.
fn index_bytes(x: &Extents, has_noise: bool) -> f64 {
    let side = |padded: f64| 20.0 * padded;
    let noise = if has_noise { 12.0 } else { 0.0 };
    let decoder = x.decoder.map_or(0.0, |[own, cross]| {
        (16.0 + noise) * own.tokens + side(own.padded_queries + cross.padded_queries + cross.padded_keys)
    });
    (24.0 + noise) * x.own.tokens + side(x.own.padded_queries) + decoder + 16.0 * x.targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example, Label};

    fn dataset(lengths: &[usize]) -> Dataset {
        let example = |&n: &usize| Example::single((0..n as u32).collect(), vec![0; n], Label::Class(0));
        Dataset::new(lengths.iter().map(example), Collation::Plain, [0; 32])
    }

    #[test]
    fn the_busiest_is_found_among_all_ranks() {
        let data = dataset(&[9, 3, 30, 4, 5, 6, 7, 8]);
        let sampler = Sampler::new(1, data.lengths(), 4, 2, 64).unwrap();
        let load = Load::of(&data, &sampler, 2, |x| x.own.pairs);
        assert!(load.busiest.own.pairs >= 900.0, "{load:?}");
        // Ids are 0 to n - 1, so the longest example contains all of them.
        assert_eq!(load.rows, 30.0);
        let load = load.evaluating(&data, 2, 10, |x| x.own.tokens);
        assert_eq!(load.evaluation.unwrap().own.tokens, 30.0);
    }
}
