//! Which neighboring sequences form a rectangle.

use std::ops::Range;

/// Maximum padding per real token in a bucket: beyond it a new bucket costs less than the padding.
pub(super) const WASTE: f64 = 0.3;
/// Below this amount of padding a split never pays.
pub(super) const SMALL: i64 = 24;

/// Divides sequences into runs whose rectangles have little padding on any side.
pub(super) fn split(sides: &[&[i64]]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut sums = vec![(0, 0); sides.len()];
    for i in 0..sides[0].len() {
        let lengths = || sides.iter().map(|side| side[i]);
        if let Some(run) = runs.last_mut() {
            let grown: Vec<(i64, i64)> = sums.iter().zip(lengths()).map(|(&(l, all), n)| (l.max(n), all + n)).collect();
            let fits = grown.iter().all(|&(longest, all)| {
                let padded = longest * (run.len() as i64 + 1) - all;
                padded <= SMALL.max((all as f64 * WASTE) as i64)
            });
            if fits {
                run.end = i + 1;
                sums = grown;
                continue;
            }
        }
        runs.push(i..i + 1);
        sums = lengths().map(|n| (n, n)).collect();
    }
    runs
}
