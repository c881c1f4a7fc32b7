//! The samples of each rank in each step: a pure function of (seed, epoch, step) and the lengths.
//!
//! Every rank computes the parts of all ranks, so the counts of a step need no communication.

use super::dataset::Dataset;
use super::samples::Samples;
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Indices of the samples of a micro-batch, longest first.
pub type MicroBatch = Vec<u32>;

/// The work of one optimizer step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// The micro-batches of each rank, none of them empty. Ranks may have different numbers.
    pub shards: Vec<Vec<MicroBatch>>,
    /// Number of tokens of all ranks.
    pub tokens: u64,
    /// Number of sequences of all ranks.
    pub sequences: usize,
    /// The epoch, from 0.
    pub epoch: u64,
}

/// The order of the samples and their division into global batches, parts per rank, and micro-batches.
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    samples: Samples,
    global_batch_size: usize,
    world: usize,
    micro_batch_tokens: usize,
    order: Option<(u64, Vec<u32>)>,
}

impl Sampler {
    /// Returns a sampler over a data set, or over samples of these lengths in tokens, with `global_batch_size` samples
    /// per step over all `world` ranks and at most `micro_batch_tokens` tokens per micro-batch.
    ///
    /// # Errors
    /// No samples, or more than 2^32 - 1; one of the other numbers is 0 (exit 2).
    pub fn new(
        seed: u64,
        samples: impl Into<Samples>,
        global_batch_size: usize,
        world: usize,
        micro_batch_tokens: usize,
    ) -> Result<Self> {
        let samples = samples.into();
        let lengths = &samples.lengths;
        if lengths.is_empty() || u32::try_from(lengths.len()).is_err() {
            return Err(Error::input(format!("a data set has 1 to 2^32 - 1 examples, this one {}", lengths.len())));
        }
        for (value, name) in [
            (global_batch_size, "train.global_batch_size"),
            (micro_batch_tokens, "train.micro_batch_tokens"),
            (world, "the number of ranks"),
        ] {
            if value == 0 {
                return Err(Error::input(format!("{name} is 0; it must be at least 1")));
            }
        }
        Ok(Sampler { seed, samples, global_batch_size, world, micro_batch_tokens, order: None })
    }

    /// Number of optimizer steps per epoch; the last batch may be smaller.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.lengths.len().div_ceil(self.global_batch_size) as u64
    }

    /// Returns the order of the samples in an epoch, from (seed, epoch) alone: a permutation of their indices; with
    /// class-balanced sampling or weights of sources as many of them, some several times.
    pub fn epoch_order(&self, epoch: u64) -> Vec<u32> {
        self.samples.order(self.seed, epoch)
    }

    /// Returns the plan of a step, counted from 0 over the whole run. Caches the order of the epoch.
    pub fn plan(&mut self, global_step: u64) -> StepPlan {
        let steps = self.steps_per_epoch();
        let (epoch, step_in_epoch) = (global_step / steps, global_step % steps);
        let order = match self.order.take() {
            Some((kept, order)) if kept == epoch => order,
            _ => self.epoch_order(epoch),
        };
        let start = step_in_epoch as usize * self.global_batch_size;
        let batch = &order[start..order.len().min(start + self.global_batch_size)];
        let changed = self.samples.changed(batch, epoch);
        let length = |i: u32| changed.as_ref().map_or_else(|| self.samples.lengths[i as usize], |changed| changed[&i]);
        let plan = StepPlan {
            shards: divide(batch, length, self.world, self.micro_batch_tokens),
            tokens: batch.iter().map(|&i| u64::from(length(i))).sum(),
            sequences: batch.len(),
            epoch,
        };
        self.order = Some((epoch, order));
        plan
    }
}

/// Returns the plan of a step whose global batch is all of a data set; `epoch` is that of its example's randomness.
///
/// # Panics
/// If `world` is 0.
pub fn batch_plan(batch: &Dataset, world: usize, micro_batch_tokens: usize, epoch: u64) -> StepPlan {
    let lengths = batch.lengths();
    StepPlan {
        shards: eval_plan(&lengths, world, micro_batch_tokens),
        tokens: batch.total_tokens(),
        sequences: batch.len(),
        epoch,
    }
}

/// Returns each rank's micro-batches of an evaluation: every example once, balanced by tokens, none of them empty.
/// Ranks may have different numbers, and with fewer examples than ranks some have none.
///
/// # Panics
/// If `world` is 0.
pub fn eval_plan(lengths: &[u32], world: usize, micro_batch_tokens: usize) -> Vec<Vec<MicroBatch>> {
    let all: Vec<u32> = (0..lengths.len() as u32).collect();
    divide(&all, |i| lengths[i as usize], world, micro_batch_tokens)
}

/// Returns the number of samples of all ranks in their micro-batches with this index.
pub fn samples_in(plan: &[Vec<MicroBatch>], micro_batch: usize) -> u64 {
    plan.iter().filter_map(|own| own.get(micro_batch)).map(|micro| micro.len() as u64).sum()
}

/// Assigns each sample, longest first, ties by index, to the rank with the fewest tokens (then the fewest samples, then
/// the lowest rank), and divides each rank's part into micro-batches.
///
/// This greedy rule keeps the largest part below 4/3 of the optimum (Graham, "Bounds on multiprocessing timing
/// anomalies", 1969), and the difference between parts at most the longest sample.
fn divide(samples: &[u32], length: impl Fn(u32) -> u32, world: usize, budget: usize) -> Vec<Vec<MicroBatch>> {
    let length = |i: u32| length(i) as usize;
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by_key(|&i| (Reverse(length(i)), i));
    let mut shares = vec![Vec::new(); world];
    let mut lightest: BinaryHeap<_> = (0..world).map(|rank| Reverse((0, 0, rank))).collect();
    for i in sorted {
        if let Some(mut top) = lightest.peek_mut() {
            let Reverse((tokens, count, rank)) = &mut *top;
            shares[*rank].push(i);
            *tokens += length(i);
            *count += 1;
        }
    }
    shares.iter().map(|share| pack(share, length, budget)).collect()
}

/// Divides a part, sorted by length, into micro-batches of at most `budget` tokens; a longer sample is alone.
///
/// Neighbours stay together: samples of similar length make full rectangles in the attention kernel.
fn pack(share: &[u32], length: impl Fn(u32) -> usize, budget: usize) -> Vec<MicroBatch> {
    let mut micro_batches: Vec<MicroBatch> = Vec::new();
    let mut tokens = 0;
    for &i in share {
        match micro_batches.last_mut() {
            Some(last) if tokens + length(i) <= budget => {
                last.push(i);
                tokens += length(i);
            }
            _ => {
                micro_batches.push(vec![i]);
                tokens = length(i);
            }
        }
    }
    micro_batches
}

#[cfg(test)]
mod tests {
    use super::super::random::SplitMix64;
    use super::*;
    use std::collections::BTreeSet;

    /// (seed, lengths, global batch, world, budget) of many shapes, including batches smaller than the world.
    fn cases() -> impl Iterator<Item = (u64, Vec<u32>, usize, usize, usize)> {
        (0..60).map(|seed| {
            let mut random = SplitMix64::keyed(&[seed, 99]);
            let mut below = |n| random.below(n) as usize;
            let lengths = (0..1 + below(200)).map(|_| 1 + below(128) as u32).collect();
            (seed, lengths, 1 + below(40), 1 + below(9), 1 + below(600))
        })
    }

    fn tokens(samples: impl IntoIterator<Item = u32>, lengths: &[u32]) -> u64 {
        samples.into_iter().map(|i| u64::from(lengths[i as usize])).sum()
    }

    fn check_shards(shards: &[Vec<MicroBatch>], lengths: &[u32], budget: usize) {
        let mut loads = Vec::new();
        let mut longest = 0;
        for shard in shards {
            for micro_batch in shard {
                assert!(!micro_batch.is_empty());
                let keys: Vec<_> = micro_batch.iter().map(|&i| (Reverse(lengths[i as usize]), i)).collect();
                assert!(keys.is_sorted(), "longest first, equals by index");
                assert!(micro_batch.len() <= 1 || tokens(micro_batch.iter().copied(), lengths) <= budget as u64);
                longest = longest.max(micro_batch.first().map_or(0, |&i| lengths[i as usize]));
            }
            loads.push(tokens(shard.iter().flatten().copied(), lengths));
        }
        let spread = loads.iter().max().unwrap() - loads.iter().min().unwrap();
        assert!(spread <= u64::from(longest), "{loads:?}");
    }

    #[test]
    fn an_epoch_holds_every_sample_once() {
        for (seed, lengths, batch, world, budget) in cases() {
            let mut sampler = Sampler::new(seed, lengths.clone(), batch, world, budget).unwrap();
            let steps = sampler.steps_per_epoch();
            for epoch in 0..2 {
                let mut seen: Vec<u32> = Vec::new();
                for step in 0..steps {
                    let plan = sampler.plan(epoch * steps + step);
                    let samples: Vec<u32> = plan.shards.iter().flatten().flatten().copied().collect();
                    assert_eq!(plan.sequences, samples.len());
                    assert_eq!(plan.tokens, tokens(samples.iter().copied(), &lengths));
                    assert_eq!(plan.sequences, if step + 1 < steps { batch } else { (lengths.len() - 1) % batch + 1 });
                    assert_eq!(plan.shards.len(), world);
                    check_shards(&plan.shards, &lengths, budget);
                    seen.extend(samples);
                }
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..lengths.len() as u32));
            }
        }
    }

    #[test]
    fn the_global_batch_does_not_depend_on_world_or_budget() {
        for (seed, lengths, batch, world, budget) in cases() {
            let mut one = Sampler::new(seed, lengths.clone(), batch, 1, 4096).unwrap();
            let mut many = Sampler::new(seed, lengths, batch, world, budget).unwrap();
            for step in 0..2 * one.steps_per_epoch() {
                let set = |plan: StepPlan| plan.shards.into_iter().flatten().flatten().collect::<BTreeSet<u32>>();
                assert_eq!(set(one.plan(step)), set(many.plan(step)));
            }
        }
    }

    #[test]
    fn plans_do_not_depend_on_earlier_calls() {
        let lengths: Vec<u32> = (0..50).map(|i| 1 + i * 7 % 31).collect();
        let mut going = Sampler::new(3, lengths.clone(), 8, 2, 64).unwrap();
        let plans: Vec<StepPlan> = (0..20).map(|step| going.plan(step)).collect();
        for (step, plan) in plans.iter().enumerate().rev() {
            assert_eq!(*plan, Sampler::new(3, lengths.clone(), 8, 2, 64).unwrap().plan(step as u64));
            assert_eq!(*plan, going.plan(step as u64));
        }
    }

    #[test]
    fn orders_differ_between_seeds_and_epochs_and_never_change() {
        let sampler = |seed| Sampler::new(seed, vec![1; 10], 4, 1, 8).unwrap();
        let orders = [sampler(42).epoch_order(0), sampler(42).epoch_order(1), sampler(43).epoch_order(0)];
        assert!(orders[0] != orders[1] && orders[0] != orders[2]);
        // A run resumes with the order that it began with: this must not change with a version or a platform.
        // Computed with a separate implementation of the documented algorithm.
        assert_eq!(orders[0], [6, 2, 1, 7, 3, 4, 5, 8, 9, 0]);
    }

    #[test]
    fn shares_are_balanced_by_tokens_not_by_samples() {
        let mut lengths = vec![1; 11];
        lengths[3] = 10;
        let shares: Vec<usize> = eval_plan(&lengths, 2, 64).iter().map(|shard| shard[0].len()).collect();
        assert_eq!(shares, [1, 10]);
    }

    #[test]
    fn a_batch_smaller_than_the_world_leaves_ranks_empty() {
        let mut sampler = Sampler::new(0, vec![5, 900, 7], 3, 5, 64).unwrap();
        let plan = sampler.plan(0);
        assert_eq!(plan.shards, [vec![vec![1]], vec![vec![2]], vec![vec![0]], vec![], vec![]]);
    }

    #[test]
    fn an_evaluation_holds_every_example_once() {
        for (_, lengths, _, world, budget) in cases() {
            let shards = eval_plan(&lengths, world, budget);
            check_shards(&shards, &lengths, budget);
            let mut seen: Vec<u32> = shards.into_iter().flatten().flatten().collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..lengths.len() as u32));
        }
        assert_eq!(eval_plan(&[], 2, 8), [Vec::<MicroBatch>::new(), Vec::new()]);
    }

    #[test]
    fn numbers_of_zero_are_refused() {
        for (lengths, batch, world, budget) in
            [(vec![], 1, 1, 1), (vec![1], 0, 1, 1), (vec![1], 1, 0, 1), (vec![1], 1, 1, 0)]
        {
            assert!(Sampler::new(0, lengths, batch, world, budget).is_err());
        }
    }
}
