//! Several ranks' values become one.
//!
//! Values are taken in the order of ranks, so the result does not depend on who computes it. Half types are summed in
//! f32 and rounded once, to nearest even, however many ranks there are: more exact than MPI's or NCCL's rings, which
//! would round at every hop.

use crate::comm::Op;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Values at a time: two blocks of the widest type stay in the first cache.
const BLOCK: usize = 1024;

/// A type that can be reduced, and the type in which that is done.
pub trait Value: Copy {
    type Wide: Copy + Default;

    /// Exact; both slices have the same length.
    fn widen(from: &[Self], to: &mut [Self::Wide]);
    /// To nearest even; both slices have the same length.
    fn narrow(from: &[Self::Wide], to: &mut [Self]);
    fn sum(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// The larger; NaN if one of them is.
    fn max(a: Self::Wide, b: Self::Wide) -> Self::Wide;
}

/// Floats that are their own wide type, and halves by way of `f32`.
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

/// Reduces `mine`, of rank `rank`, with the `others`': their values one rank after another, as many as in `mine` each.
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
    use std::time::Instant;

    #[test]
    fn speed() {
        fn time<T: Value>(name: &str, one: T) {
            let mut mine = vec![one; 1 << 20];
            let others = mine.clone();
            let mut best = f64::MAX;
            for _ in 0..20 {
                let t = Instant::now();
                fold(Op::Sum, 0, &mut mine, &others);
                best = best.min(t.elapsed().as_secs_f64());
            }
            println!("{name}: {:.2} G/s", mine.len() as f64 / best / 1e9);
        }
        time("f32", 1.0f32);
        time("f16", f16::ONE);
        time("bf16", bf16::ONE);
        time("u8", 1u8);
    }
}
