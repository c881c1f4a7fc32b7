//! The order of a stream: shards in a random order, examples through a buffer, as functions of (seed, pass).
//!
//! An example that arrives when the buffer is full replaces a random one, which is taken; at the end of a pass the
//! rest is taken in random order (the buffer of `datasets.IterableDataset.shuffle`). The slot of an arrival depends on
//! (seed, pass, its number) alone, so that what the buffer holds at any point follows from that point, without the
//! examples before it.

use super::random::SplitMix64;

/// Distinguish these random numbers from each other and from others with the same seed.
const SLOTS: u64 = 0x6275_6666_6572_0001;
const REST: u64 = 0x6275_6666_6572_0002;
const SHARDS: u64 = 0x6275_6666_6572_0003;

/// The order of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shuffle {
    seed: u64,
    size: usize,
}

impl Shuffle {
    /// Returns the order with a buffer of `size` examples; 0 and 1 are the order of the files.
    pub fn new(seed: u64, size: usize) -> Self {
        Shuffle { seed, size: size.max(1) }
    }

    /// Number of examples that the buffer holds.
    pub fn size(self) -> usize {
        self.size
    }

    /// Returns the order in which a pass reads `shards` shards.
    pub fn shards(self, pass: u64, shards: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..shards).collect();
        if self.size > 1 {
            SplitMix64::keyed(&[SHARDS, self.seed, pass]).shuffle(&mut order);
        }
        order
    }

    /// Returns the slot of an example that arrives at a full buffer; `arrival` counts the examples of the pass from 0.
    pub fn slot(self, pass: u64, arrival: u64) -> usize {
        SplitMix64::keyed(&[SLOTS, self.seed, pass, arrival]).below(self.size as u64) as usize
    }

    /// Returns the number of the example in each slot after the first `arrived` examples of a pass. Takes O(n log n)
    /// for a buffer of n examples, whatever `arrived` is.
    pub fn held(self, pass: u64, arrived: u64) -> Vec<u64> {
        let size = self.size as u64;
        let mut slots: Vec<u64> = (0..arrived.min(size)).collect();
        let mut is_known = vec![false; slots.len()];
        let mut unknown = slots.len();
        // The last arrival of a slot is the one that it holds.
        for arrival in (size..arrived).rev() {
            let slot = self.slot(pass, arrival);
            if !is_known[slot] {
                (slots[slot], is_known[slot]) = (arrival, true);
                unknown -= 1;
                if unknown == 0 {
                    break;
                }
            }
        }
        slots
    }

    /// Puts what the buffer holds at the end of a pass in the order in which it is taken, the first one last.
    pub fn rest<T>(self, pass: u64, slots: &mut [T]) {
        if self.size > 1 {
            SplitMix64::keyed(&[REST, self.seed, pass]).shuffle(slots);
        }
        slots.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_follows_from_the_number_of_arrivals() {
        for (size, seed) in [(1, 0), (2, 1), (7, 2), (50, 3)] {
            let shuffle = Shuffle::new(seed, size);
            let mut slots: Vec<u64> = Vec::new();
            for arrival in 0..400 {
                assert_eq!(shuffle.held(5, arrival), slots, "{size}: before {arrival}");
                if slots.len() < size {
                    slots.push(arrival);
                } else {
                    slots[shuffle.slot(5, arrival)] = arrival;
                }
            }
        }
    }

    #[test]
    fn a_buffer_of_one_is_the_order_of_the_files() {
        for size in [0, 1] {
            let shuffle = Shuffle::new(9, size);
            assert_eq!((shuffle.size(), shuffle.shards(3, 4)), (1, vec![0, 1, 2, 3]));
            let mut rest = [1];
            shuffle.rest(3, &mut rest);
            assert_eq!(rest, [1]);
        }
    }

    #[test]
    fn orders_differ_between_seeds_and_passes() {
        let order = |seed, pass| Shuffle::new(seed, 2).shards(pass, 20);
        assert!(order(1, 0) != order(1, 1) && order(1, 0) != order(2, 0));
        let mut sorted = order(1, 0);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..20));
        let rest = |seed, pass| {
            let mut rest: Vec<u32> = (0..20).collect();
            Shuffle::new(seed, 30).rest(pass, &mut rest);
            rest
        };
        assert!(rest(1, 0) != rest(1, 1) && rest(1, 0) != rest(2, 0) && rest(1, 0) == rest(1, 0));
    }
}
