//! What a sampler divides: the lengths of the examples in each epoch, and the order in which they are read.

use super::dataset::Dataset;
use super::example::Label;
use super::mixture::Mixture;
use super::random::SplitMix64;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Distinguishes the random numbers of class-balanced sampling from those of a shuffled order.
const DOMAIN: u64 = 0x6261_6c61_6e63_6564;

/// The samples of a sampler.
#[derive(Clone)]
pub struct Samples {
    /// Number of tokens of each sample, without augmentation.
    pub(super) lengths: Arc<[u32]>,
    /// The data set, if its lengths differ between epochs.
    changing: Option<Dataset>,
    /// With class-balanced sampling: the samples of each class that has any.
    classes: Option<Arc<[Vec<u32>]>>,
    /// With weights of sources: how they are mixed.
    mixture: Option<Arc<Mixture>>,
}

impl From<Vec<u32>> for Samples {
    fn from(lengths: Vec<u32>) -> Self {
        Samples { lengths: lengths.into(), changing: None, classes: None, mixture: None }
    }
}

impl From<&Dataset> for Samples {
    fn from(dataset: &Dataset) -> Self {
        let classes = dataset.is_class_balanced().then(|| {
            let mut classes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for i in 0..dataset.len() {
                if let Label::Class(class) = dataset.label(i) {
                    classes.entry(class).or_default().push(i as u32);
                }
            }
            classes.into_values().collect()
        });
        let changing = dataset.changes_lengths().then(|| dataset.clone());
        Samples { lengths: dataset.lengths().into(), changing, classes, mixture: dataset.mixture.clone() }
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (changing, balanced) = (self.changing.is_some(), self.classes.is_some());
        f.debug_struct("Samples")
            .field("lengths", &self.lengths)
            .field("changing", &changing)
            .field("balanced", &balanced)
            .field("mixture", &self.mixture)
            .finish()
    }
}

impl Samples {
    /// Returns the order in which an epoch reads samples, from (seed, epoch) alone: a permutation, or as many samples
    /// with replacement, each with a probability inversely proportional to the size of its class, as
    /// `torch.utils.data.WeightedRandomSampler` draws them with these weights; or as many of a [`Mixture`].
    pub(super) fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        match (&self.classes, &self.mixture) {
            (_, Some(mixture)) => mixture.order(seed, epoch),
            (None, None) => {
                let mut order: Vec<u32> = (0..self.lengths.len() as u32).collect();
                SplitMix64::keyed(&[seed, epoch]).shuffle(&mut order);
                order
            }
            (Some(classes), None) => {
                let mut random = SplitMix64::keyed(&[DOMAIN, seed, epoch]);
                let mut below = |n: usize| random.below(n as u64) as usize;
                let mut draw = || {
                    let class = &classes[below(classes.len())];
                    class[below(class.len())]
                };
                self.lengths.iter().map(|_| draw()).collect()
            }
        }
    }

    /// Returns the lengths of these samples in an epoch, by sample, if they differ from the usual ones.
    pub(super) fn changed(&self, samples: &[u32], epoch: u64) -> Option<HashMap<u32, u32>> {
        let dataset = self.changing.as_ref()?;
        Some(samples.iter().map(|&i| (i, dataset.length_in(i as usize, epoch) as u32)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example, Sampler};

    fn sampler(seed: u64, world: usize) -> Sampler {
        // 10 examples of class 0, 100 of class 2, 890 of class 1.
        let class = |i: usize| Label::Class([0, 2, 1][usize::from(i >= 10) + usize::from(i >= 110)]);
        let example = |i: usize| Example::single(vec![1; 1 + i % 7], vec![0; 1 + i % 7], class(i));
        let data = Dataset::new((0..1000).map(example), Collation::Plain, [0; 32]).class_balanced();
        Sampler::new(seed, &data, 16, world, 64).unwrap()
    }

    #[test]
    fn classes_are_equally_frequent() {
        let mut counts = [0_i32; 3];
        for epoch in 0..10 {
            let order = sampler(1, 1).epoch_order(epoch);
            assert_eq!(order.len(), 1000);
            order.iter().for_each(|&i| counts[usize::from(i >= 10) + usize::from(i >= 110)] += 1);
        }
        // Of 10,000 draws a third each; five standard deviations are 236.
        assert!(counts.iter().all(|n| (n - 3333).abs() < 236), "{counts:?}");
    }

    #[test]
    fn the_draws_are_a_function_of_seed_and_epoch() {
        let orders = [(1, 0), (1, 1), (2, 0)].map(|(seed, epoch)| sampler(seed, 1).epoch_order(epoch));
        assert!(orders[0] != orders[1] && orders[0] != orders[2]);
        let (mut one, mut three) = (sampler(1, 1), sampler(1, 3));
        let steps = one.steps_per_epoch();
        for step in (0..2 * steps).rev() {
            let sorted = |sampler: &mut Sampler| {
                let mut all: Vec<u32> = sampler.plan(step).shards.into_iter().flatten().flatten().collect();
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(&mut one), sorted(&mut three));
            let start = (step % steps) as usize * 16;
            let mut batch = one.epoch_order(step / steps)[start..1000.min(start + 16)].to_vec();
            batch.sort_unstable();
            assert_eq!(sorted(&mut one), batch);
        }
    }
}
