//! Work on many texts on all cores, and how far it is.

use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Texts that were to be worked on in this process, and that are done.
static COUNTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// What `work` makes of each input, in the order of the inputs.
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

/// How many texts this process has worked on, and was to work on.
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
