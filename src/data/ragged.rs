//! A packed batch: the real tokens of several sequences, one after another, without padding.

use super::buckets::split;
use crate::ffi::{transfer, without_graph};
use std::cell::RefCell;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// The positions of sequences in a packed batch and how the attention kernel groups them.
///
/// Only the kernel works on rectangles: neighbouring sequences of similar length form a [`Bucket`].
#[derive(Debug)]
pub struct Sequences {
    lengths: Vec<i64>,
    buckets: Vec<Bucket>,
    first: Tensor,
    last: Tensor,
    positions: Tensor,
    cu_seqlens: Tensor,
    derived: RefCell<Vec<(u64, Vec<Tensor>)>>,
}

/// Sequences that attend to others one to one: a decoder's to the encoder's.
#[derive(Debug)]
pub struct Cross {
    buckets: Vec<Bucket>,
}

/// Neighbouring sequences that attention computes as one rectangle `[sequences, longest query, longest key]`.
#[derive(Debug)]
pub struct Bucket {
    pub sequences: i64,
    pub queries: Side,
    keys: Keys,
}

/// The keys that the queries of a bucket attend to.
#[derive(Debug)]
enum Keys {
    /// Their own sequences.
    Own,
    /// The sequences of another batch.
    Others(Side),
    /// Their own sequences and all earlier tokens in the KV cache: a left-padded rectangle, so that the queries are its
    /// last columns. The mask is f32 `[sequences, 1, 1, longest]`, as [`Padding::mask`]; `None` when all lengths are
    /// equal.
    Remembered(Side, Option<Tensor>),
}

/// The tokens of a bucket's sequences, as queries or as keys.
#[derive(Debug)]
pub struct Side {
    /// The length of the longest sequence.
    pub longest: i64,
    /// The range of tokens in the batch.
    pub tokens: Range<i64>,
    /// How to pad and unpad; `None` when all lengths are equal.
    pub padding: Option<Padding>,
}

/// Indices between the real tokens and the rectangle.
#[derive(Debug)]
pub struct Padding {
    /// i64 `[sequences * longest]`: the token at each place, relative to the bucket; padding repeats the sequence's
    /// first token.
    pub gather: Tensor,
    /// i64 `[tokens]`: the positions of the real tokens.
    pub scatter: Tensor,
    /// f32 `[sequences, 1, 1, longest]`: 0 at real keys, minus infinity at padding.
    pub mask: Tensor,
}

impl Sequences {
    /// Packs sequences of these lengths. Neighbours of similar length make full rectangles, so callers sort by length;
    /// any order gives the same results. The tensors are on the CPU ([`Sequences::tensors_mut`]).
    pub fn new(lengths: Vec<i64>) -> Self {
        assert!(lengths.iter().all(|&n| n > 0), "a sequence has at least one token");
        let starts = starts(&lengths);
        let bucket = |run: Range<usize>| {
            let queries = Side::new(&lengths[run.clone()], starts[run.start]);
            Bucket { sequences: run.len() as i64, queries, keys: Keys::Own }
        };
        let buckets = split(&[&lengths]).into_iter().map(bucket).collect();
        let last: Vec<i64> = starts.iter().zip(&lengths).map(|(start, n)| start + n - 1).collect();
        let positions: Vec<i64> = lengths.iter().flat_map(|&n| 0..n).collect();
        let [first, last, positions] = [&starts, &last, &positions].map(|values| Tensor::from_slice(values));
        let (cu_seqlens, derived) = (cu_seqlens(&lengths), RefCell::default());
        Sequences { lengths, buckets, first, last, positions, cu_seqlens, derived }
    }

    /// Returns the sequences of a decoding step: one new token for each sequence that has `before` tokens in the KV
    /// cache. One rectangle `[sequences, 1, longest + 1]`.
    pub fn next(before: &[i64]) -> Self {
        let (n, longest) = (before.len() as i64, before.iter().copied().max().unwrap_or(0) + 1);
        let mask = before.iter().any(|&length| length + 1 < longest).then(|| {
            let row = |&length: &i64| (0..longest).map(move |column| column + length + 1 >= longest);
            let real: Vec<f32> =
                before.iter().flat_map(row).map(|real| if real { 0.0 } else { f32::NEG_INFINITY }).collect();
            Tensor::from_slice(&real).view([n, 1, 1, longest])
        });
        let keys = Side { longest, tokens: 0..n * longest, padding: None };
        let queries = Side { longest: 1, tokens: 0..n, padding: None };
        let buckets = vec![Bucket { sequences: n, queries, keys: Keys::Remembered(keys, mask) }];
        let [first, last] = [0; 2].map(|_| Tensor::arange(n, (Kind::Int64, Device::Cpu)));
        let (lengths, positions) = (vec![1; before.len()], Tensor::from_slice(before));
        let (cu_seqlens, derived) = (cu_seqlens(&lengths), RefCell::default());
        Sequences { lengths, buckets, first, last, positions, cu_seqlens, derived }
    }

    /// The tensors, to upload with others in one copy ([`transfer::upload`]).
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let own = [&mut self.first, &mut self.last, &mut self.positions, &mut self.cu_seqlens];
        own.into_iter().chain(self.buckets.iter_mut().flat_map(Bucket::tensors_mut)).collect()
    }

    /// The rectangles of the attention kernel, which cover the tokens in order.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Number of tokens of each sequence.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// i32 `[sequences + 1]`: the index of each first token, and the number of all tokens.
    pub fn cu_seqlens(&self) -> &Tensor {
        &self.cu_seqlens
    }

    /// i64 `[sequences]`: the index of each first token.
    pub fn first(&self) -> &Tensor {
        &self.first
    }

    /// i64 `[sequences]`: the index of each last token.
    pub fn last(&self) -> &Tensor {
        &self.last
    }

    /// i64 `[T]`: each token's position in its sequence, from 0; with a KV cache, the position after the cached tokens.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Returns tensors that depend on the sequences only, computed by `make` once per `key` for all blocks and their
    /// recomputation in backward, without a graph.
    pub fn derived(&self, key: u64, make: impl FnOnce() -> Vec<Tensor>) -> Vec<Tensor> {
        let mut known = self.derived.borrow_mut();
        let at = known.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
            known.push((key, without_graph(make)));
            known.len() - 1
        });
        known[at].1.iter().map(Tensor::shallow_clone).collect()
    }
}

impl Cross {
    /// Lets each sequence of `queries` attend to the sequence of `keys` with the same index.
    ///
    /// # Panics
    /// If the numbers of sequences differ.
    pub fn new(queries: &Sequences, keys: &Sequences) -> Self {
        assert_eq!(queries.lengths.len(), keys.lengths.len(), "as many sequences on both sides");
        let (query_starts, key_starts) = (starts(&queries.lengths), starts(&keys.lengths));
        let bucket = |run: Range<usize>| Bucket {
            sequences: run.len() as i64,
            queries: Side::new(&queries.lengths[run.clone()], query_starts[run.start]),
            keys: Keys::Others(Side::new(&keys.lengths[run.clone()], key_starts[run.start])),
        };
        Cross { buckets: split(&[&queries.lengths, &keys.lengths]).into_iter().map(bucket).collect() }
    }

    /// As [`Sequences::tensors_mut`].
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        self.buckets.iter_mut().flat_map(Bucket::tensors_mut).collect()
    }

    /// The rectangles of the attention kernel, which cover the tokens of both sides in order.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }
}

/// i64 `[sum of lengths]`: the index of each value in the rectangle that [`pad`] makes; `None` when all rows have the
/// same length. On the CPU.
pub fn padded_positions(lengths: &[i64]) -> Option<Tensor> {
    let longest = lengths.iter().copied().max()?;
    let positions = (0..).zip(lengths).flat_map(|(row, &n)| row * longest..row * longest + n);
    lengths.iter().any(|&n| n < longest).then(|| Tensor::from_slice(&positions.collect::<Vec<i64>>()))
}

/// Pads rows of these lengths with `fill`: `[sum of lengths]` to `[rows, longest]`. `positions` is the result of
/// [`padded_positions`], on the device of the values.
pub fn pad(values: &Tensor, lengths: &[i64], positions: Option<&Tensor>, fill: f64) -> Tensor {
    let (rows, longest) = (lengths.len() as i64, lengths.iter().copied().max().unwrap_or(0));
    let Some(positions) = positions else { return values.view([rows, longest]) };
    let filled = values.new_full([rows * longest], fill, (values.kind(), values.device()));
    filled.index_copy(0, positions, values).view([rows, longest])
}

/// i64 `[sequences * longest]`: the token at each place of a left-padded rectangle, relative to the batch; padding
/// repeats the sequence's first token.
pub fn fill_in_front(sequences: &Sequences) -> Tensor {
    let longest = sequences.lengths.iter().copied().max().unwrap_or(0);
    let starts = starts(&sequences.lengths);
    let row = |(start, n): (i64, i64)| (0..longest).map(move |column| start + (column + n - longest).max(0));
    let positions: Vec<i64> = starts.into_iter().zip(sequences.lengths.iter().copied()).flat_map(row).collect();
    transfer::to_device(Tensor::from_slice(&positions), sequences.first.device())
}

/// Returns the cumulative lengths, from 0.
fn cu_seqlens(lengths: &[i64]) -> Tensor {
    let ends = starts(lengths).into_iter().chain([lengths.iter().sum()]);
    Tensor::from_slice(&ends.map(|end| end as i32).collect::<Vec<_>>())
}

/// Returns the index of each first token.
fn starts(lengths: &[i64]) -> Vec<i64> {
    let start = |end: &mut i64, &n: &i64| {
        *end += n;
        Some(*end - n)
    };
    lengths.iter().scan(0, start).collect()
}

impl Bucket {
    /// What the queries attend to: their own sequences, or others.
    pub fn keys(&self) -> &Side {
        match &self.keys {
            Keys::Own => &self.queries,
            Keys::Others(side) | Keys::Remembered(side, _) => side,
        }
    }

    fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let (others, mask) = match &mut self.keys {
            Keys::Own => (None, None),
            Keys::Others(side) => (Some(side), None),
            Keys::Remembered(side, mask) => (Some(side), mask.as_mut()),
        };
        let sides = [Some(&mut self.queries), others].into_iter().flatten();
        let paddings = sides.filter_map(|side| side.padding.as_mut());
        let tensors = paddings.flat_map(|Padding { gather, scatter, mask }| [gather, scatter, mask]);
        tensors.chain(mask).collect()
    }

    /// Returns whether the queries attend to their own sequences.
    pub fn is_own(&self) -> bool {
        !matches!(self.keys, Keys::Others(_))
    }

    /// Returns whether the keys include cached ones.
    pub fn has_past(&self) -> bool {
        matches!(self.keys, Keys::Remembered(..))
    }

    /// f32 `[sequences, 1, 1, longest key]`: 0 at real keys, minus infinity at padding; `None` if no query can attend
    /// to padding. With a `causal` mask, no query attends to the padding after it.
    pub fn padded_keys(&self, causal: bool) -> Option<&Tensor> {
        match &self.keys {
            Keys::Remembered(_, mask) => mask.as_ref(),
            Keys::Own | Keys::Others(_) => {
                self.keys().padding.as_ref().filter(|_| !causal).map(|padding| &padding.mask)
            }
        }
    }
}

impl Side {
    fn new(lengths: &[i64], start: i64) -> Self {
        let tokens: i64 = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padding = (tokens < lengths.len() as i64 * longest).then(|| Padding::new(lengths, longest));
        Side { longest, tokens: start..start + tokens, padding }
    }

    /// Returns these tokens of `x` `[T, ..]` as the rows `[sequences * longest, ..]` of a rectangle.
    pub fn rectangle(&self, x: &Tensor) -> Tensor {
        let own = x.narrow(0, self.tokens.start, self.tokens.end - self.tokens.start);
        self.padding.as_ref().map_or(own.shallow_clone(), |padding| own.index_select(0, &padding.gather))
    }

    /// Returns the real tokens of a rectangle's rows: the inverse of [`Side::rectangle`].
    pub fn tokens_of(&self, rectangle: Tensor) -> Tensor {
        match &self.padding {
            Some(padding) => rectangle.index_select(0, &padding.scatter),
            None => rectangle,
        }
    }
}

impl Padding {
    fn new(lengths: &[i64], longest: i64) -> Self {
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
        Padding { gather: Tensor::from_slice(&gather), scatter: Tensor::from_slice(&scatter), mask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::buckets::{SMALL, WASTE};

    fn ints(t: &Tensor) -> Vec<i64> {
        Vec::try_from(t).unwrap()
    }

    #[test]
    fn buckets_cover_every_token_once_and_waste_little() {
        for lengths in [vec![9, 3, 17, 2, 12, 5], vec![1], vec![128; 4], (1..60).rev().collect(), vec![512, 3, 3, 3]] {
            let s = Sequences::new(lengths.clone());
            let mut end = 0;
            for b in s.buckets() {
                let side = &b.queries;
                assert_eq!(side.tokens.start, end);
                end = side.tokens.end;
                let real = side.tokens.end - side.tokens.start;
                let padded = b.sequences * side.longest - real;
                assert!(padded <= SMALL.max((real as f64 * WASTE) as i64));
                assert_eq!(side.padding.is_some(), padded > 0);
            }
            assert_eq!(end, lengths.iter().sum::<i64>());
            assert_eq!(s.buckets().iter().map(|b| b.sequences).sum::<i64>(), lengths.len() as i64);
        }
    }

    #[test]
    fn scatter_undoes_gather() {
        let s = Sequences::new(vec![5, 3, 4]);
        let [bucket] = s.buckets() else { panic!("one bucket") };
        let tokens = Tensor::arange(12, (Kind::Int64, Device::Cpu));
        let there = bucket.queries.rectangle(&tokens);
        assert_eq!((there.size(), ints(&bucket.queries.tokens_of(there))), (vec![15], ints(&tokens)));
        assert_eq!(ints(s.positions()), [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]);
        assert_eq!((ints(s.first()), ints(s.last())), (vec![0, 5, 8], vec![4, 7, 11]));
        assert_eq!(Vec::<i32>::try_from(s.cu_seqlens()).unwrap(), [0, 5, 8, 12]);
    }

    #[test]
    fn both_sides_of_a_cross_are_cut_together() {
        let [queries, keys] = [vec![2, 2, 9, 1], vec![5, 40, 3, 4]].map(Sequences::new);
        let cross = Cross::new(&queries, &keys);
        let runs: Vec<i64> = cross.buckets().iter().map(|bucket| bucket.sequences).collect();
        assert_eq!(runs, [1, 1, 2]);
        let ends = cross.buckets().iter().map(|b| (b.queries.tokens.end, b.keys().tokens.end)).collect::<Vec<_>>();
        assert_eq!(ends, [(2, 5), (4, 45), (14, 52)]);
    }

    #[test]
    fn a_next_token_is_the_last_cached_one() {
        let before = Sequences::new(vec![2, 4]);
        assert_eq!(ints(&fill_in_front(&before)), [0, 0, 0, 1, 2, 3, 4, 5]);
        let next = Sequences::next(&[2, 4]);
        let [bucket] = next.buckets() else { panic!("one bucket") };
        assert_eq!((bucket.queries.longest, bucket.keys().longest, next.lengths()), (1, 5, &[1, 1][..]));
        let hidden = bucket.padded_keys(true).unwrap().isinf().to_kind(Kind::Int64).view(-1);
        assert_eq!((ints(&hidden), ints(next.last())), (vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0], vec![0, 1]));
        assert!(Sequences::next(&[3, 3]).buckets()[0].padded_keys(true).is_none());
    }

    #[test]
    fn padding_fills_up_to_the_longest() {
        let padded = |values: &[f32], lengths: &[i64]| {
            let padded = pad(&Tensor::from_slice(values), lengths, padded_positions(lengths).as_ref(), -1.0);
            Vec::<Vec<f32>>::try_from(padded).unwrap()
        };
        assert_eq!(padded(&[1.0, 2.0, 3.0], &[1, 2]), [[1.0, -1.0], [2.0, 3.0]]);
        assert_eq!(padded(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), [[1.0, 2.0], [3.0, 4.0]]);
        assert!(padded_positions(&[]).is_none());
    }
}
