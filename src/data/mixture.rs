//! Several sources of examples mixed by weight: a pure function of (seed, epoch).

use super::random::SplitMix64;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Distinguishes these random numbers from others with the same seed: where sources begin in an epoch, and the orders
/// of their examples.
const PLACES: [u64; 2] = [0x6d69_7874_7572_6500, 0];
const EXAMPLES: [u64; 2] = [0x6d69_7874_7572_6500, 1];

/// The order in which N examples of several sources are read, N in each epoch.
///
/// Source s with weight `w_s` has `n_s = N w_s / sum(w)` examples in each epoch, rounded so that they add up to N. They
/// are evenly spaced over the epoch, with a random start (systematic sampling), so that the first n examples of an
/// epoch have `n n_s / N` of the source, within one for two sources and within `1 + (S - 2) n_s / N` for S. A source's
/// examples come in a random permutation; the next one begins when it ends, wherever that is in an epoch: no example
/// is read a second time before each was read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// The examples of each source.
    sources: Vec<Range<u32>>,
    /// Number of examples of each source in an epoch.
    counts: Vec<usize>,
}

impl Mixture {
    /// Mixes sources with these numbers of examples, one after another in the data set.
    ///
    /// # Panics
    /// If a source has no examples, or there is not one positive weight for each.
    pub fn new(sizes: &[usize], weights: &[f64]) -> Self {
        assert_eq!(sizes.len(), weights.len(), "a weight for each source");
        assert!(sizes.iter().all(|&size| size > 0) && weights.iter().all(|&weight| weight > 0.0));
        let ends = |size: &usize, end: &mut u32| {
            let start = *end;
            *end += *size as u32;
            start..*end
        };
        let sources = sizes.iter().scan(0, |end, size| Some(ends(size, end))).collect();
        let (all, total) = (sizes.iter().sum::<usize>() as f64, weights.iter().sum::<f64>());
        // Rounded cumulative sums, whose differences add up.
        let (mut sum, mut before) = (0.0, 0);
        let counts = weights.iter().map(|weight| {
            sum += weight;
            let through = (all * (sum / total)).round() as usize;
            through - std::mem::replace(&mut before, through)
        });
        let counts = counts.collect();
        Mixture { sources, counts }
    }

    /// Returns the number of examples of each source in an epoch. They add up to the number of all examples; a source
    /// whose weight is too small for one has none.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Returns the order of an epoch.
    pub(super) fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let keys = [PLACES[0], PLACES[1], seed, epoch];
        let start = |s: usize| {
            let random = SplitMix64::keyed(&[&keys[..], &[s as u64]].concat()).next_u64();
            (random >> 11) as f64 / (1u64 << 53) as f64
        };
        let starts: Vec<f64> = (0..self.sources.len()).map(start).collect();
        // The place in [0, 1) of a source's k-th example in the epoch; numbers >= 0 are ordered as their bits.
        let place = |s: usize, k: usize| ((k as f64 + starts[s]) / self.counts[s] as f64).to_bits();
        let mut examples: Vec<_> = (0..self.sources.len()).map(|s| self.examples(s, seed, epoch).into_iter()).collect();
        let some = (0..self.sources.len()).filter(|&s| self.counts[s] > 0);
        let mut next: BinaryHeap<_> = some.map(|s| Reverse((place(s, 0), s, 0))).collect();
        let mut order = Vec::with_capacity(self.counts.iter().sum());
        while let Some(Reverse((_, s, k))) = next.pop() {
            order.extend(examples[s].next());
            if k + 1 < self.counts[s] {
                next.push(Reverse((place(s, k + 1), s, k + 1)));
            }
        }
        order
    }

    /// Returns the examples of a source in an epoch: a section of its permutations, one after another.
    fn examples(&self, s: usize, seed: u64, epoch: u64) -> Vec<u32> {
        let (size, count) = (self.sources[s].len(), self.counts[s]);
        let first = epoch * count as u64;
        let (mut pass, mut at) = (first / size as u64, (first % size as u64) as usize);
        let mut examples = Vec::with_capacity(count);
        while examples.len() < count {
            let mut all: Vec<u32> = self.sources[s].clone().collect();
            SplitMix64::keyed(&[EXAMPLES[0], EXAMPLES[1], seed, s as u64, pass]).shuffle(&mut all);
            examples.extend(all.into_iter().skip(at).take(count - examples.len()));
            (pass, at) = (pass + 1, 0);
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (sizes, weights) of many shapes.
    fn cases() -> impl Iterator<Item = (Vec<usize>, Vec<f64>)> {
        (0..200).map(|seed| {
            let mut random = SplitMix64::keyed(&[seed, 5]);
            let n = 1 + random.below(6) as usize;
            let sizes = (0..n).map(|_| 1 + random.below(90) as usize).collect();
            (sizes, (0..n).map(|_| 0.01 + random.below(1000) as f64).collect())
        })
    }

    #[test]
    fn every_part_of_an_epoch_has_the_proportions_of_the_weights() {
        for (sizes, weights) in cases() {
            let (mixture, all) = (Mixture::new(&sizes, &weights), sizes.iter().sum::<usize>());
            let total: f64 = weights.iter().sum();
            for (count, weight) in mixture.counts.iter().zip(&weights) {
                assert!((*count as f64 - all as f64 * weight / total).abs() <= 1.0, "{sizes:?} {weights:?}");
            }
            let order = mixture.order(7, 3);
            assert_eq!(order.len(), all);
            let mut found = vec![0; sizes.len()];
            for (i, n) in order.iter().zip(1..) {
                found[mixture.sources.iter().position(|source| source.contains(i)).unwrap()] += 1;
                for (found, count) in found.iter().zip(&mixture.counts) {
                    let part = *count as f64 / all as f64;
                    let bound = 1.0 + part * (sizes.len() as f64 - 2.0).max(0.0) + 1e-9;
                    assert!((f64::from(*found) - f64::from(n) * part).abs() <= bound, "{sizes:?} {weights:?}: {n}");
                }
            }
        }
    }

    #[test]
    fn each_example_is_read_once_before_any_is_read_again() {
        for (sizes, weights) in cases() {
            let mixture = Mixture::new(&sizes, &weights);
            let mut read = vec![0; sizes.iter().sum()];
            let all: Vec<u32> = (0..5).flat_map(|epoch| mixture.order(1, epoch)).collect();
            for (step, i) in all.into_iter().enumerate() {
                read[i as usize] += 1;
                // Looking at all after each is slow.
                if step % 7 == 0 {
                    for source in &mixture.sources {
                        let times: &[i32] = &read[source.start as usize..source.end as usize];
                        assert!(times.iter().max().unwrap() - times.iter().min().unwrap() <= 1, "{sizes:?}: {times:?}");
                    }
                }
            }
        }
        let mut once = Mixture::new(&[30, 10], &[0.3, 0.1]).order(1, 2);
        once.sort_unstable();
        assert!(once.into_iter().eq(0..40), "weights as the sizes: each example once in each epoch");
    }

    #[test]
    fn the_order_is_a_function_of_seed_and_epoch_and_never_changes() {
        let mixture = Mixture::new(&[4, 8], &[3.0, 1.0]);
        assert_eq!(mixture.counts(), [9, 3]);
        // Computed with a separate implementation of the documented algorithm.
        assert_eq!(mixture.order(42, 0), [3, 2, 1, 5, 0, 1, 0, 9, 3, 2, 3, 7]);
        assert_eq!(mixture.order(42, 1), [0, 2, 6, 1, 1, 2, 8, 0, 3, 1, 4, 0]);
        assert!(mixture.order(43, 0) != mixture.order(42, 0));
        assert_eq!(Mixture::new(&[9, 1], &[1.0, 0.01]).counts(), [10, 0]);
    }
}
