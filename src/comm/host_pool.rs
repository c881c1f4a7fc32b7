//! Threads on the cores of all ranks of a host, for work that one of them does while the others wait.

use super::ffi::process;
use super::{Collective, Op};
use crate::error::{Context, Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::BTreeSet;

/// CPUs per number of an exchanged set: as bits of an integer that f64 represents exactly.
const WORD: usize = 32;
/// Numbers of a set, as large as the kernel's `cpu_set_t`.
const WORDS: usize = 1024 / WORD;
/// What a rank sends: its host's leader, and its set.
const SLOT: usize = 1 + WORDS;

/// Returns on the first rank of every host with several ranks a pool of as many threads as its ranks have together,
/// which may run wherever one of them may; `None` elsewhere, or if the kernel allows no such threads. All ranks call
/// it. The ranks compute nothing else while the pool works.
///
/// # Errors
/// A dead or late rank; threads that cannot be started.
pub fn for_first_rank(comm: &dyn Collective) -> Result<Option<ThreadPool>> {
    if comm.world() == 1 {
        return Ok(None);
    }
    let own = process::allowed_cpus();
    let mut slots = vec![0.0; comm.world() * SLOT];
    slots[comm.rank() * SLOT..][..SLOT].copy_from_slice(&slot(comm.host_leader(), &own));
    comm.all_reduce_f64(&mut slots, Op::Sum, "the cores of the ranks")?;
    let cpus: Vec<usize> = of_host(&slots, comm.host_leader()).into_iter().collect();
    // Threads inherit the binding of the thread that starts them.
    let waits = comm.local_rank() > 0 || comm.local_world() == 1;
    if waits || own.is_empty() || process::allow_cpus(&cpus).is_err() {
        return Ok(None);
    }
    let each = rayon::current_num_threads();
    let threads = (each * comm.local_world()).min(cpus.len()).max(each);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    process::allow_cpus(&own).context("restoring the core binding")?;
    Ok(Some(pool.map_err(|e| Error::other(format!("threads for tokenizing: {e}")))?))
}

/// Returns what a rank with these CPUs sends.
fn slot(leader: usize, cpus: &[usize]) -> [f64; SLOT] {
    let mut words = [0_u32; WORDS];
    for &cpu in cpus.iter().filter(|&&cpu| cpu < WORDS * WORD) {
        words[cpu / WORD] |= 1 << (cpu % WORD);
    }
    std::array::from_fn(|i| if i == 0 { leader as f64 } else { f64::from(words[i - 1]) })
}

/// Returns the CPUs of the ranks with this leader.
fn of_host(slots: &[f64], leader: usize) -> BTreeSet<usize> {
    let own = slots.chunks_exact(SLOT).filter(|slot| slot[0] == leader as f64);
    let words = own.flat_map(|slot| slot[1..].iter().enumerate());
    words
        .flat_map(|(i, &word)| (0..WORD).filter(move |bit| word as u32 >> bit & 1 == 1).map(move |bit| i * WORD + bit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn sets_of_a_host_are_joined() {
        let slots = [slot(0, &[0, 31]), slot(2, &[5]), slot(0, &[31, 32, 1023])].concat();
        assert_eq!(of_host(&slots, 0), BTreeSet::from([0, 31, 32, 1023]));
        assert_eq!(of_host(&slots, 2), BTreeSet::from([5]));
    }

    /// Each rank is bound to one CPU; the pools of the first ranks may use those of their hosts.
    #[test]
    fn the_first_rank_of_each_host_gets_the_cores_of_its_host() {
        let all = process::allowed_cpus();
        let cpu = |rank: usize| all[rank % all.len()];
        let rank_main = |comm: std::sync::Arc<dyn Collective>| {
            let own = vec![cpu(comm.rank())];
            process::allow_cpus(&own).unwrap();
            let pool = for_first_rank(comm.as_ref()).unwrap();
            assert_eq!(process::allowed_cpus(), own, "the rank keeps its binding");
            assert_eq!(pool.is_some(), comm.local_rank() == 0 && comm.local_world() > 1);
            pool.map(|pool| pool.broadcast(|_| process::allowed_cpus()))
        };
        let pools: Vec<_> = thread::scope(|scope| {
            let ends = threads::hosts(5, 2, Duration::from_secs(20));
            let ranks: Vec<_> = ends.into_iter().map(|end| scope.spawn(move || rank_main(end))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
        });
        for first in [0, 2] {
            let expected: BTreeSet<usize> = [cpu(first), cpu(first + 1)].into();
            let threads = pools[first].as_ref().expect("a pool");
            assert!(threads.iter().all(|cpus| expected.iter().eq(cpus)), "{threads:?}, not {expected:?}");
        }
    }
}
