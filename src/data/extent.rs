//! The size of a micro-batch, from which memory and work follow, without its tensors.

use crate::data::buckets;
use crate::data::collation::Collation;
use crate::data::dataset::Dataset;
use crate::data::example::Label;
use crate::data::random::RandomKey;

/// Sequences that attend to themselves or to as many others: sizes of the rectangles of the attention kernel.
///
/// A *position* is a column of a rectangle, real token or padding. Counts are f64 because they are factors of products
/// of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extent {
    /// Number of real query tokens, and of the real keys they attend to.
    pub tokens: f64,
    pub key_tokens: f64,
    pub sequences: f64,
    /// Number of query positions and of key positions of all rectangles.
    pub queries: f64,
    pub keys: f64,
    /// Number of query and key positions in rectangles with padding, which are copies.
    pub padded_queries: f64,
    pub padded_keys: f64,
    /// Length of the longest query sequence, and the number of rectangles.
    pub longest: f64,
    pub rectangles: f64,
    /// Number of query positions in rectangles of a single sequence, whose heads need no copy.
    pub alone: f64,
    /// Number of (query place, key place) pairs, in all rectangles and in the largest one.
    pub pairs: f64,
    pub largest: f64,
    /// Number of query and key positions of the largest rectangle: rectangles are computed one after another.
    pub widest: [f64; 2],
}

/// The size of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extents {
    pub examples: f64,
    /// The model's input sequences; for an encoder-decoder, the encoder's.
    pub own: Extent,
    /// The decoder's sequences, and their cross-attention to the encoder's.
    pub decoder: Option<[Extent; 2]>,
    /// Number of target tokens.
    pub targets: f64,
}

impl Extent {
    /// Returns the extent of these sequences, in the order of a batch.
    pub fn of(lengths: &[i64]) -> Self {
        Self::between(lengths, None)
    }

    /// Returns the extent of `queries` that attend to `keys`, or to themselves.
    fn between(queries: &[i64], keys: Option<&[i64]>) -> Self {
        let sides: Vec<&[i64]> = [queries].into_iter().chain(keys).collect();
        let mut extent = Extent { sequences: queries.len() as f64, ..Extent::default() };
        for run in buckets::split(&sides) {
            let n = run.len() as f64;
            let side = |lengths: &[i64]| {
                let longest = lengths[run.clone()].iter().copied().max().unwrap_or_default() as f64;
                let tokens: i64 = lengths[run.clone()].iter().sum();
                (longest, tokens as f64, if (tokens as f64) < n * longest { n * longest } else { 0.0 })
            };
            let (query, tokens, padded) = side(queries);
            let (key, key_tokens, padded_keys) = keys.map_or((query, tokens, padded), side);
            extent.tokens += tokens;
            extent.key_tokens += key_tokens;
            extent.longest = extent.longest.max(query);
            extent.rectangles += 1.0;
            extent.queries += n * query;
            extent.keys += n * key;
            extent.padded_queries += padded;
            extent.padded_keys += padded_keys;
            extent.alone += if run.len() == 1 { query } else { 0.0 };
            extent.pairs += n * query * key;
            extent.largest = extent.largest.max(n * query * key);
            let [queries, keys] = extent.widest;
            if n * (query + 2.0 * key) > queries + 2.0 * keys {
                extent.widest = [n * query, n * key];
            }
        }
        extent
    }
}

impl Extents {
    /// Returns the extents of sequences of equal length in one rectangle, with `targets` target tokens.
    pub fn even(sequences: usize, length: usize, targets: usize) -> Self {
        let lengths = vec![length as i64; sequences];
        let own = Extent::of(&lengths);
        Extents { examples: sequences as f64, own, decoder: None, targets: targets as f64 }
    }

    /// Returns the extents of these samples, collated as [`super::batch::Batch::collate`] does. The number of masked
    /// tokens is random; the expected number is used.
    pub fn of(dataset: &Dataset, samples: &[u32]) -> Self {
        Self::in_epoch(dataset, samples, 0)
    }

    /// Returns the same for an epoch of training, from 0; it matters with augmentation only.
    pub fn in_epoch(dataset: &Dataset, samples: &[u32], epoch: u64) -> Self {
        let (mut own, mut decoder, mut targets) = (Vec::new(), Vec::new(), 0.0);
        for &sample in samples {
            let i = sample as usize;
            let sequences = dataset.sequences_in(i, epoch);
            targets += targets_of(dataset, i, &sequences, epoch);
            if matches!(dataset.collation(), Collation::SourceTarget { .. }) {
                own.push(i64::from(sequences[0]));
                decoder.push(sequences.get(1).map_or(1, |&n| i64::from(n.max(1))));
            } else {
                own.extend(sequences.into_iter().map(i64::from));
            }
        }
        let decoder = (!decoder.is_empty()).then(|| [Extent::of(&decoder), Extent::between(&decoder, Some(&own))]);
        Extents { examples: samples.len() as f64, own: Extent::of(&own), decoder, targets }
    }

    /// Number of tokens of both sides.
    pub fn tokens(&self) -> f64 {
        self.own.tokens + self.decoder.map_or(0.0, |[own, _]| own.tokens)
    }
}

fn targets_of(dataset: &Dataset, i: usize, sequences: &[u32], epoch: u64) -> f64 {
    match (dataset.collation(), dataset.label(i)) {
        (Collation::Masked(masking), _) => masking.expected(dataset.length(i)),
        (Collation::NextToken, Label::None) => sequences.iter().map(|&n| f64::from(n.saturating_sub(1))).sum(),
        (Collation::SourceTarget { .. }, _) => sequences.get(1).map_or(0.0, |&n| f64::from(n)),
        (_, Label::Tokens(_) | Label::TokensAndClass(..)) => {
            dataset.inputs(i, RandomKey { epoch, ..RandomKey::default() }).targets.len() as f64
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Example;

    #[test]
    fn rectangles_are_counted_with_their_padding() {
        // 40 and 39 share a rectangle of 2 x 40 with one padded position; 5 is alone.
        let extent = Extent::of(&[40, 39, 5]);
        assert_eq!((extent.tokens, extent.queries, extent.padded_queries, extent.alone), (84.0, 85.0, 80.0, 5.0));
        assert_eq!((extent.pairs, extent.largest), (2.0 * 1600.0 + 25.0, 3200.0));
        assert_eq!(extent.widest, [80.0, 80.0]);
    }

    #[test]
    fn a_decoder_attends_to_itself_and_to_its_source() {
        let example = |source: usize, target: usize| Example {
            ids: vec![5; source + target],
            type_ids: vec![0; source + target],
            lengths: vec![source as u32, target as u32],
            label: Label::None,
        };
        let dataset = Dataset::new([example(30, 7), example(30, 4)], Collation::SourceTarget { start: 0 }, [0; 32]);
        let extents = Extents::of(&dataset, &[0, 1]);
        let [own, cross] = extents.decoder.unwrap();
        assert_eq!((extents.own.pairs, own.pairs, cross.pairs), (1800.0, 98.0, 2.0 * 7.0 * 30.0));
        assert_eq!((own.padded_queries, cross.padded_queries, cross.padded_keys), (14.0, 14.0, 0.0));
        assert_eq!((extents.targets, extents.tokens()), (11.0, 71.0));
    }

    #[test]
    fn each_token_but_the_last_tells_the_next() {
        let example = Example { ids: vec![1; 9], type_ids: vec![0; 9], lengths: vec![4, 5], label: Label::None };
        let dataset = Dataset::new([example], Collation::NextToken, [0; 32]);
        assert_eq!(Extents::of(&dataset, &[0]).targets, 7.0);
        assert_eq!(Extents::even(3, 4, 9).own.pairs, 48.0);
    }
}
