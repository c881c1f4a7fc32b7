//! Parallel processing of texts on all cores, with progress counters.

use rayon::ThreadPool;
use rayon::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of texts submitted and completed in this process.
static COUNTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

thread_local! {
    /// The threads that this thread's texts are processed by, if not those of all of the process's cores.
    static POOL: RefCell<Option<Rc<ThreadPool>>> = const { RefCell::new(None) };
}

/// Calls `work`, in which [`on_all_cores`] uses the threads of this pool.
pub fn with_pool<T>(pool: Option<ThreadPool>, work: impl FnOnce() -> T) -> T {
    let before = POOL.replace(pool.map(Rc::new));
    let made = work();
    POOL.set(before);
    made
}

/// Applies `work` to each input on all cores. Results are in input order.
pub fn on_all_cores<I: Sync, T: Send>(inputs: &[I], work: impl Fn(&I) -> T + Sync + Send) -> Vec<T> {
    let [all, done] = &COUNTS;
    all.fetch_add(inputs.len() as u64, Ordering::Relaxed);
    let work = |input| {
        let made = work(input);
        done.fetch_add(1, Ordering::Relaxed);
        made
    };
    let apply = || inputs.par_iter().map(work).collect();
    match POOL.with_borrow(Clone::clone) {
        Some(pool) => pool.install(apply),
        None => apply(),
    }
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

    #[test]
    fn a_given_pool_is_used_within_the_call() {
        let own = rayon::current_num_threads();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(own + 1).build().unwrap();
        let threads = || on_all_cores(&[0; 9], |_| rayon::current_num_threads());
        assert_eq!(with_pool(Some(pool), threads), [own + 1; 9]);
        assert_eq!(threads(), [own; 9]);
    }
}
