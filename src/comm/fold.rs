//! Reduces the values of several ranks.
//!
//! Values are taken in rank order, so the result is the same on every rank. Half types are summed in f32 and rounded
//! once to nearest even, whatever the number of ranks, which is more accurate than the rings of MPI and NCCL, which
//! round at every hop.

use crate::comm::Op;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Values per block: two blocks of the widest type fit in the L1 cache.
const BLOCK: usize = 1024;

/// A type that can be reduced, and its accumulation type.
pub trait Value: Copy {
    type Wide: Copy + Default;

    /// Converts exactly; both slices have the same length.
    fn widen(from: &[Self], to: &mut [Self::Wide]);
    /// Rounds to nearest even; both slices have the same length.
    fn narrow(from: &[Self::Wide], to: &mut [Self]);
    fn sum(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// Maximum; NaN if one of them is NaN.
    fn max(a: Self::Wide, b: Self::Wide) -> Self::Wide;
}

/// Implements the trait for a float with its wide type and the conversions `(from, to)` and `(to, from)`.
macro_rules! float {
    ($type:ty, $wide:ty, $widen:expr, $narrow:expr) => {
        impl Value for $type {
            type Wide = $wide;

            fn widen(from: &[$type], to: &mut [$wide]) {
                $widen(from, to);
            }

            fn narrow(from: &[$wide], to: &mut [$type]) {
                $narrow(to, from);
            }

            #[inline(always)]
            fn sum(a: $wide, b: $wide) -> $wide {
                a + b
            }

            #[inline(always)]
            fn max(a: $wide, b: $wide) -> $wide {
                if b > a || b.is_nan() { b } else { a }
            }
        }
    };
}

macro_rules! integer {
    ($type:ty) => {
        impl Value for $type {
            type Wide = $type;

            fn widen(from: &[$type], to: &mut [$type]) {
                to.copy_from_slice(from);
            }

            fn narrow(from: &[$type], to: &mut [$type]) {
                to.copy_from_slice(from);
            }

            #[inline(always)]
            fn sum(a: $type, b: $type) -> $type {
                a.wrapping_add(b)
            }

            #[inline(always)]
            fn max(a: $type, b: $type) -> $type {
                Ord::max(a, b)
            }
        }
    };
}

float!(f32, f32, |from: &[f32], to: &mut [f32]| to.copy_from_slice(from), <[f32]>::copy_from_slice);
float!(f64, f64, |from: &[f64], to: &mut [f64]| to.copy_from_slice(from), <[f64]>::copy_from_slice);
float!(f16, f32, <[f16]>::convert_to_f32_slice, <[f16]>::convert_from_f32_slice);
float!(bf16, f32, <[bf16]>::convert_to_f32_slice, <[bf16]>::convert_from_f32_slice);
integer!(i64);
integer!(u8);

/// Reduces `mine` of rank `rank` with the `others`' values, which are concatenated in rank order.
pub fn fold<T: Value>(op: Op, rank: usize, mine: &mut [T], others: &[T]) {
    match op {
        Op::Sum => fold_by(T::sum, rank, mine, others),
        Op::Max => fold_by(T::max, rank, mine, others),
    }
}

#[inline(always)]
fn fold_by<T: Value>(combine: impl Fn(T::Wide, T::Wide) -> T::Wide, rank: usize, mine: &mut [T], others: &[T]) {
    let n = mine.len();
    let (mut total, mut next) = ([T::Wide::default(); BLOCK], [T::Wide::default(); BLOCK]);
    for (at, block) in mine.chunks_mut(BLOCK).enumerate().map(|(i, block)| (i * BLOCK, block)) {
        let (total, next) = (&mut total[..block.len()], &mut next[..block.len()]);
        let other = |i: usize| &others[i * n + at..][..block.len()];
        let ranks = others.len().checked_div(n).unwrap_or(0) + 1;
        for r in 0..ranks {
            let from: &[T] = match r.cmp(&rank) {
                std::cmp::Ordering::Less => other(r),
                std::cmp::Ordering::Equal => block,
                std::cmp::Ordering::Greater => other(r - 1),
            };
            if r == 0 {
                T::widen(from, total);
            } else {
                T::widen(from, next);
                total.iter_mut().zip(next.iter()).for_each(|(a, b)| *a = combine(*a, *b));
            }
        }
        T::narrow(total, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `fold` on each rank of `all`: the results are equal.
    fn folded<T: Value + PartialEq + std::fmt::Debug>(op: Op, all: &[Vec<T>]) -> Vec<T> {
        let of_rank = |rank: usize| {
            let mut mine = all[rank].clone();
            let others: Vec<T> =
                all.iter().enumerate().filter(|(r, _)| *r != rank).flat_map(|(_, v)| v.clone()).collect();
            fold(op, rank, &mut mine, &others);
            mine
        };
        let first = of_rank(0);
        (1..all.len()).for_each(|rank| assert_eq!(of_rank(rank), first, "rank {rank}"));
        first
    }

    #[test]
    fn halves_are_rounded_once() {
        // A single addition of 2^-9 to 1 would be rounded away; their sum is 2^-7, the next bf16.
        let mut ranks = vec![vec![bf16::from_f32((-9f32).exp2()); BLOCK + 3]; 5];
        ranks[0].fill(bf16::ONE);
        assert_eq!(folded(Op::Sum, &ranks), vec![bf16::from_f32(1.0 + (-7f32).exp2()); BLOCK + 3]);
        let mut ranks = vec![vec![f16::from_f32((-12f32).exp2()); BLOCK + 3]; 5];
        ranks[0].fill(f16::ONE);
        assert_eq!(folded(Op::Sum, &ranks), vec![f16::from_f32(1.0 + (-10f32).exp2()); BLOCK + 3]);
        // Also with an intermediate infinity.
        let ranks = [f16::MAX, f16::MAX, f16::MIN].map(|value| vec![value]);
        assert_eq!(folded(Op::Sum, &ranks), [f16::MAX]);
    }

    #[test]
    fn the_largest_of_each_place() {
        let ranks = [vec![1i64, -5, 3], vec![0, -4, 3], vec![2, -6, 3]];
        assert_eq!(folded(Op::Max, &ranks), [2, -4, 3]);
        for nan in 0..3 {
            let mut ranks = [vec![1.0f32], vec![3.0], vec![2.0]];
            ranks[nan] = vec![f32::NAN];
            let (mut mine, others) = (ranks[0].clone(), [ranks[1][0], ranks[2][0]]);
            fold(Op::Max, 0, &mut mine, &others);
            assert!(mine[0].is_nan(), "of rank {nan}");
        }
    }

    #[test]
    fn nobody_else_changes_nothing() {
        assert_eq!(folded(Op::Sum, &[vec![bf16::from_f32(0.1); 3]]), [bf16::from_f32(0.1); 3]);
        assert!(folded::<f32>(Op::Sum, &[vec![], vec![]]).is_empty());
    }
}
