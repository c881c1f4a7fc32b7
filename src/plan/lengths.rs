//! How long examples are, and what padding them would have cost.

use crate::data::Sampler;

/// Bars of the histogram.
const BARS: usize = 12;
/// Characters of the longest bar.
const BAR_WIDTH: f64 = 40.0;
/// Samples after which padding is told from those seen.
const LOOKED_AT: u64 = 2_000_000;

/// The lengths of a data set's examples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lengths {
    pub examples: u64,
    pub tokens: u64,
    pub shortest: u32,
    pub median: u32,
    /// Nine of ten are no longer, and 99 of 100.
    pub p90: u32,
    pub p99: u32,
    pub longest: u32,
    /// From, to and how many examples.
    pub histogram: Vec<(u32, u32, u64)>,
}

/// Places that a padded run would compute for each real token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Padding {
    /// Each global batch padded to its longest example.
    pub to_longest: f64,
    /// Each example padded to the greatest length.
    pub to_max: f64,
}

impl Lengths {
    /// Of examples of so many tokens each.
    pub fn of(lengths: &[u32]) -> Self {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let (Some(&shortest), Some(&longest)) = (sorted.first(), sorted.last()) else { return Lengths::default() };
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        let width = (longest - shortest + 1).div_ceil(BARS as u32).max(1);
        let bar = |start: u32| {
            let end = start + width;
            let count = sorted.partition_point(|&n| n < end) - sorted.partition_point(|&n| n < start);
            (start, (end - 1).min(longest), count as u64)
        };
        Lengths {
            examples: sorted.len() as u64,
            tokens: sorted.iter().map(|&n| u64::from(n)).sum(),
            shortest,
            median: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            longest,
            histogram: (shortest..=longest).step_by(width as usize).map(bar).collect(),
        }
    }

    /// Tokens of an example on average.
    pub fn mean(&self) -> f64 {
        self.tokens as f64 / self.examples.max(1) as f64
    }

    /// A line for each bar.
    pub fn bars(&self) -> Vec<String> {
        let most = self.histogram.iter().map(|bar| bar.2).max().unwrap_or(1).max(1);
        let digits = self.longest.to_string().len();
        let line = |&(from, to, count): &(u32, u32, u64)| {
            let filled = (count as f64 / most as f64 * BAR_WIDTH).ceil() as usize;
            format!("{from:>digits$} to {to:>digits$}  {:<40} {count}", "#".repeat(filled))
        };
        self.histogram.iter().map(line).collect()
    }
}

impl Padding {
    /// Of the steps of the first epoch; `max` is the length that examples would be padded to.
    pub fn of(lengths: &[u32], sampler: &Sampler, max: usize) -> Self {
        let mut sampler = sampler.clone();
        let (mut padded, mut real, mut examples) = (0u64, 0u64, 0u64);
        for step in 0..sampler.steps_per_epoch() {
            let plan = sampler.plan(step);
            let batch = plan.shards.iter().flatten().flatten();
            let longest = batch.map(|&i| lengths[i as usize]).max().unwrap_or_default();
            padded += u64::from(longest) * plan.sequences as u64;
            real += plan.tokens;
            examples += plan.sequences as u64;
            if examples >= LOOKED_AT {
                break;
            }
        }
        let real = real.max(1) as f64;
        Padding { to_longest: padded as f64 / real, to_max: max as f64 * examples as f64 / real }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares_by_hand() {
        let lengths = [4, 8, 8, 10, 30];
        let found = Lengths::of(&lengths);
        assert_eq!((found.examples, found.tokens, found.shortest, found.median, found.longest), (5, 60, 4, 8, 30));
        assert_eq!(found.mean(), 12.0);
        assert_eq!(found.histogram.iter().map(|bar| bar.2).sum::<u64>(), 5);
        assert_eq!(found.histogram[0], (4, 6, 1));
        assert!(found.bars()[1].starts_with(" 7 to  9  ######"), "{:?}", found.bars());
        assert_eq!(Lengths::of(&[]).mean(), 0.0);
        assert_eq!(Lengths::of(&[7, 7]).histogram, [(7, 7, 2)]);
    }

    #[test]
    fn padding_by_hand() {
        // One batch of all: 5 x 30 places for 60 tokens; to 64: 320.
        let lengths = [4, 8, 8, 10, 30];
        let sampler = Sampler::new(1, lengths.to_vec(), 5, 1, 4096).unwrap();
        assert_eq!(Padding::of(&lengths, &sampler, 64), Padding { to_longest: 2.5, to_max: 320.0 / 60.0 });
    }
}
