//! A ragged batch: the real tokens of several sequences, one after another, without padding.

use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// The sequences' places in a ragged batch, and how the attention kernel groups them.
///
/// The kernel alone works on rectangles: neighbouring sequences of about the same length form a [`Bucket`].
#[derive(Debug)]
pub struct Sequences {
    lengths: Vec<i64>,
    buckets: Vec<Bucket>,
    first: Tensor,
}

/// Neighbouring sequences that attention computes as one rectangle `[sequences, longest]`.
#[derive(Debug)]
pub struct Bucket {
    /// The number of sequences.
    pub sequences: i64,
    /// The longest of them.
    pub longest: i64,
    /// Their tokens in the batch.
    pub tokens: Range<i64>,
    /// How to make and undo the rectangle; `None` when all have the same length.
    pub padding: Option<Padding>,
}

/// Indices between a bucket's real tokens and its rectangle.
#[derive(Debug)]
pub struct Padding {
    /// i64 `[sequences * longest]`: for each place the token, counted in the bucket; a padded place repeats its sequence's first.
    pub gather: Tensor,
    /// i64 `[tokens]`: the places of the real tokens.
    pub scatter: Tensor,
    /// f32 `[sequences, 1, 1, longest]`: 0 at real keys, minus infinity at padded ones.
    pub mask: Tensor,
}

/// Padded places that a bucket may hold for each real token: past it a new bucket costs less than the padding.
const WASTE: f64 = 0.3;
/// Below this number of padded places a split never pays.
const SMALL: i64 = 24;

impl Sequences {
    /// Lays sequences of these lengths one after another. Neighbours of similar length make full rectangles, so callers
    /// sort by length; any order gives the same results.
    pub fn new(lengths: Vec<i64>, device: Device) -> Self {
        assert!(lengths.iter().all(|&n| n > 0), "a sequence has at least one token");
        let starts: Vec<i64> = lengths
            .iter()
            .scan(0, |end, &n| {
                let start = *end;
                *end += n;
                Some(start)
            })
            .collect();
        let first = Tensor::from_slice(&starts).to_device(device);
        let buckets = split(&lengths).into_iter().map(|r| Bucket::new(&lengths[r.clone()], starts[r.start], device));
        Sequences { buckets: buckets.collect(), first, lengths }
    }

    /// The rectangles of the attention kernel, covering the tokens in order.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The tokens of each sequence.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// i64 `[sequences]`: the place of each first token.
    pub fn first(&self) -> &Tensor {
        &self.first
    }

    /// i64 `[T]`: each token's position in its sequence, from 0.
    pub fn positions(&self) -> Tensor {
        let positions: Vec<i64> = self.lengths.iter().flat_map(|&n| 0..n).collect();
        Tensor::from_slice(&positions).to_device(self.first.device())
    }
}

/// Cuts sequences into runs whose rectangles waste little.
fn split(lengths: &[i64]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let (mut longest, mut tokens) = (0, 0);
    for (i, &n) in lengths.iter().enumerate() {
        if let Some(run) = runs.last_mut() {
            let (wide, all) = (longest.max(n), tokens + n);
            let padded = wide * (run.len() as i64 + 1) - all;
            if padded <= SMALL.max((all as f64 * WASTE) as i64) {
                run.end = i + 1;
                (longest, tokens) = (wide, all);
                continue;
            }
        }
        runs.push(i..i + 1);
        (longest, tokens) = (n, n);
    }
    runs
}

impl Bucket {
    fn new(lengths: &[i64], start: i64, device: Device) -> Self {
        let tokens: i64 = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let sequences = lengths.len() as i64;
        let padding = (tokens < sequences * longest).then(|| Padding::new(lengths, longest, device));
        Bucket { sequences, longest, tokens: start..start + tokens, padding }
    }
}

impl Padding {
    fn new(lengths: &[i64], longest: i64, device: Device) -> Self {
        let (mut gather, mut scatter, mut mask, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (row, &n) in lengths.iter().enumerate() {
            for column in 0..longest {
                let real = column < n;
                gather.push(if real { start + column } else { start });
                mask.push(if real { 0.0 } else { f32::NEG_INFINITY });
                if real {
                    scatter.push(row as i64 * longest + column);
                }
            }
            start += n;
        }
        let mask = Tensor::from_slice(&mask).view([lengths.len() as i64, 1, 1, longest]);
        Padding {
            gather: Tensor::from_slice(&gather).to_device(device),
            scatter: Tensor::from_slice(&scatter).to_device(device),
            mask: mask.to_kind(Kind::Float).to_device(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(t: &Tensor) -> Vec<i64> {
        Vec::try_from(t).unwrap()
    }

    #[test]
    fn buckets_cover_every_token_once_and_waste_little() {
        for lengths in [vec![9, 3, 17, 2, 12, 5], vec![1], vec![128; 4], (1..60).rev().collect(), vec![512, 3, 3, 3]] {
            let s = Sequences::new(lengths.clone(), Device::Cpu);
            let mut end = 0;
            for b in s.buckets() {
                assert_eq!(b.tokens.start, end);
                end = b.tokens.end;
                let real = b.tokens.end - b.tokens.start;
                let padded = b.sequences * b.longest - real;
                assert!(padded <= SMALL.max((real as f64 * WASTE) as i64));
                assert_eq!(b.padding.is_some(), padded > 0);
            }
            assert_eq!(end, lengths.iter().sum::<i64>());
            assert_eq!(s.buckets().iter().map(|b| b.sequences).sum::<i64>(), lengths.len() as i64);
        }
    }

    #[test]
    fn scatter_undoes_gather() {
        let s = Sequences::new(vec![5, 3, 4], Device::Cpu);
        let [bucket] = s.buckets() else { panic!("one bucket") };
        let padding = bucket.padding.as_ref().unwrap();
        let tokens = Tensor::arange(12, (Kind::Int64, Device::Cpu));
        let there = tokens.index_select(0, &padding.gather);
        assert_eq!(ints(&there.index_select(0, &padding.scatter)), ints(&tokens));
        assert_eq!(ints(&s.positions()), [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]);
        assert_eq!(ints(s.first()), [0, 5, 8]);
    }
}
