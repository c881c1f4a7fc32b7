//! Statistics of example lengths, and the padding that a padded run would have.

use crate::data::{Collation, Dataset, Sampler};

/// Number of bars of the histogram.
const BARS: usize = 12;
/// Length of the longest bar in characters.
const BAR_WIDTH: f64 = 40.0;
/// Maximum number of samples used for the padding statistics.
const LOOKED_AT: u64 = 2_000_000;

/// Statistics of the lengths of a data set's examples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lengths {
    pub examples: u64,
    pub tokens: u64,
    pub shortest: u32,
    pub median: u32,
    /// 90th and 99th percentile.
    pub p90: u32,
    pub p99: u32,
    pub longest: u32,
    /// (from, to, number of examples) of each bar.
    pub histogram: Vec<(u32, u32, u64)>,
}

/// Positions that a padded run would compute per real token. Choices are separate sequences, targets are padded
/// separately from sources, and packed blocks are full.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Padding {
    /// With sequences padded to the longest of their global batch.
    pub to_longest: f64,
    /// With sequences padded to the maximum length.
    pub to_max: f64,
}

impl Lengths {
    /// Computes the statistics from the number of tokens of each example.
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

    /// Mean number of tokens of an example.
    pub fn mean(&self) -> f64 {
        self.tokens as f64 / self.examples.max(1) as f64
    }

    /// Formats the histogram, one line per bar.
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
    /// Computes the padding in the first epoch; `max`: the maximum lengths of sequences and, for seq2seq, of targets.
    pub fn of(dataset: &Dataset, sampler: &Sampler, max: [usize; 2]) -> Self {
        let mut sampler = sampler.clone();
        let (mut to_longest, mut to_max, mut real, mut examples) = (0.0, 0.0, 0u64, 0u64);
        for step in 0..sampler.steps_per_epoch() {
            let plan = sampler.plan(step);
            // For each side, the number of sequences and the length of the longest one.
            let mut sides = [(0.0, 0u32); 2];
            for &i in plan.shards.iter().flatten().flatten() {
                for (side, length) in sequences(dataset, i as usize, plan.epoch) {
                    sides[side].0 += 1.0;
                    sides[side].1 = sides[side].1.max(length);
                }
            }
            for ((count, longest), max) in sides.into_iter().zip(max) {
                to_longest += count * f64::from(longest);
                to_max += count * max as f64;
            }
            real += plan.tokens;
            examples += plan.sequences as u64;
            if examples >= LOOKED_AT {
                break;
            }
        }
        let real = real.max(1) as f64;
        Padding { to_longest: to_longest / real, to_max: to_max / real }
    }
}

/// Returns the separately padded sequences of an example as (side, length).
fn sequences(dataset: &Dataset, i: usize, epoch: u64) -> Vec<(usize, u32)> {
    match dataset.collation() {
        Collation::Plain => dataset.sequences_in(i, epoch).into_iter().map(|length| (0, length)).collect(),
        Collation::SourceTarget { .. } => dataset.sequences(i).into_iter().enumerate().collect(),
        _ => vec![(0, dataset.length(i) as u32)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Label};

    #[test]
    fn statistics_match_manual_values() {
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

    /// Returns the padding with all examples in one batch.
    fn padding(examples: &[&[u32]], collation: Collation, max: [usize; 2]) -> Padding {
        let example = |lengths: &&[u32]| {
            let n = lengths.iter().sum::<u32>() as usize;
            Example { ids: vec![1; n], type_ids: vec![0; n], lengths: lengths.to_vec(), label: Label::None }
        };
        let data = Dataset::new(examples.iter().map(example), collation, [0; 32]);
        let sampler = Sampler::new(1, data.lengths(), examples.len(), 1, 4096).unwrap();
        Padding::of(&data, &sampler, max)
    }

    #[test]
    fn padding_matches_manual_values() {
        // 5 x 30 positions for 60 tokens; to 64: 320.
        let found = padding(&[&[4], &[8], &[8], &[10], &[30]], Collation::Plain, [64, 0]);
        assert_eq!(found, Padding { to_longest: 2.5, to_max: 320.0 / 60.0 });
        // Four choices of 30: each is padded to 128.
        let choices = padding(&[&[30; 4], &[30; 4]], Collation::Plain, [128, 0]);
        assert_eq!(choices, Padding { to_longest: 1.0, to_max: 128.0 / 30.0 });
        // Sources to 20 or 50, targets to 6 or 10: 2 x 26 or 2 x 60 positions for 40 tokens.
        let sides = padding(&[&[20, 4], &[10, 6]], Collation::SourceTarget { start: 0 }, [50, 10]);
        assert_eq!(sides, Padding { to_longest: 52.0 / 40.0, to_max: 3.0 });
        // Documents of one block.
        let packed = padding(&[&[40, 24], &[64]], Collation::NextToken, [64, 0]);
        assert_eq!(packed, Padding { to_longest: 1.0, to_max: 1.0 });
    }
}
