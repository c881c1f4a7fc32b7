//! Parallel processing of texts on all cores, with progress counters.

use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of texts submitted and completed in this process.
static COUNTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Applies `work` to each input on all cores. Results are in input order.
pub fn on_all_cores<I: Sync, T: Send>(inputs: &[I], work: impl Fn(&I) -> T + Sync + Send) -> Vec<T> {
    let [all, done] = &COUNTS;
    all.fetch_add(inputs.len() as u64, Ordering::Relaxed);
    let work = |input| {
        let made = work(input);
        done.fetch_add(1, Ordering::Relaxed);
        made
    };
    inputs.par_iter().map(work).collect()
}

/// Returns the numbers of texts completed and submitted in this process.
pub fn counts() -> (u64, u64) {
    let [all, done] = COUNTS.each_ref().map(|count| count.load(Ordering::Relaxed));
    (done.min(all), all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_are_counted() {
        let before = counts();
        let inputs: Vec<u32> = (0..1000).collect();
        assert_eq!(on_all_cores(&inputs, |i| i * 2), inputs.iter().map(|i| i * 2).collect::<Vec<_>>());
        let after = counts();
        assert!(after.0 >= before.0 + 1000 && after.1 >= before.1 + 1000, "{before:?} {after:?}");
    }
}
