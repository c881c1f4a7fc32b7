//! A small random generator with the same numbers on every platform and in every version.
//!
//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), with
//! bounded numbers by Lemire's method ("Fast random integer generation in an interval", 2019), which has no bias.

/// The golden ratio's fraction in 64 bits, SplitMix64's increment.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The key of a batch's randomness: with the tokens of a sequence, it seeds that sequence's generator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RandomKey {
    pub seed: u64,
    /// The optimizer step, from 1; 0 in an evaluation, so that every evaluation has the same inputs.
    pub step: u64,
    /// The epoch of training, from 0, on which the augmentation of an example depends; it is no part of the generator.
    pub epoch: u64,
}

impl RandomKey {
    /// Returns the generator of the sequence with these tokens, wherever in the data it is. (Equal sequences share
    /// it.)
    pub fn generator(self, ids: &[u32]) -> SplitMix64 {
        let keys = [self.seed, self.step].into_iter().chain(ids.iter().map(|&id| u64::from(id)));
        SplitMix64::keyed_by(keys)
    }
}

/// A SplitMix64 generator.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns a generator that depends on all of the keys and on their order.
    pub fn keyed(keys: &[u64]) -> Self {
        Self::keyed_by(keys.iter().copied())
    }

    fn keyed_by(keys: impl Iterator<Item = u64>) -> Self {
        SplitMix64(keys.fold(0, |state, key| mix(state.wrapping_add(GAMMA) ^ mix(key.wrapping_add(GAMMA)))))
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// Returns a uniform integer from 0 to `bound - 1`; 0 for a `bound` of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // A product's high half spreads 2^64 values over `bound` slots; its low half tells which are one too many.
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            let low = product as u64;
            if low >= bound || low >= bound.wrapping_neg().checked_rem(bound).unwrap_or(0) {
                return (product >> 64) as u64;
            }
        }
    }

    /// Returns true with this probability: never for 0, always for 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// Shuffles `items` uniformly (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference() {
        // First outputs for seed 1234567 of the public-domain splitmix64.c (Vigna, 2015).
        let mut random = SplitMix64(1234567);
        let numbers = [(); 3].map(|()| random.next_u64());
        assert_eq!(numbers, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn keys_and_their_order_matter() {
        let first = |keys: &[u64]| SplitMix64::keyed(keys).next_u64();
        let all = [first(&[1, 2]), first(&[2, 1]), first(&[1, 3]), first(&[0, 0]), first(&[0]), first(&[])];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(a), "{i}");
        }
    }

    #[test]
    fn every_permutation_is_as_likely() {
        let mut counts = std::collections::HashMap::new();
        let mut random = SplitMix64::keyed(&[7]);
        for _ in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            random.shuffle(&mut items);
            *counts.entry(items).or_insert(0_i32) += 1;
        }
        // 24 outcomes of 1000 each; six standard deviations are 186.
        assert!(counts.len() == 24 && counts.values().all(|n| (n - 1000).abs() < 186), "{counts:?}");
    }
}
