//! The threads backend for tests: ranks as threads of one process, with the same checks as between processes.
//!
//! The last rank to arrive does the work for all in rank order, so every rank gets the same bits.

use super::job::{Action, Element, Header, Job, disagreement, name_ranks};
use super::{Collective, Op, Pending};
use crate::error::{Error, Result};
use crate::ffi::memory::{Use, during};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tch::{Device, Kind as Type, Tensor};

/// Returns the handles of a group of `world` ranks; a wait longer than `timeout` is an error on all ranks.
pub fn group(world: usize, timeout: Duration) -> Vec<Arc<dyn Collective>> {
    let group = Arc::new(Group { world, timeout, state: Mutex::default(), changed: Condvar::new() });
    (0..world)
        .map(|rank| {
            let group = group.clone();
            Arc::new(End { rank, group, next: AtomicU64::new(0), left: AtomicBool::new(false) }) as Arc<dyn Collective>
        })
        .collect()
}

struct Group {
    world: usize,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Operations that not all ranks have awaited yet, by sequence number.
    operations: HashMap<u64, Operation>,
    /// The error that made the group unusable.
    broken: Option<Error>,
    /// Answers to a roll call, by rank.
    roll: HashMap<usize, i64>,
}

struct Operation {
    jobs: Vec<Option<Job>>,
    result: Option<Result<()>>,
    /// Number of ranks that have not read the result yet.
    unseen: usize,
}

impl Group {
    /// Locks the state, even after another rank's thread panicked, which is reported too.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every pending wait an error.
    fn break_up(&self, why: Error) {
        self.state().broken.get_or_insert(why);
        self.changed.notify_all();
    }

    fn arrive(&self, sequence: u64, rank: usize, job: Job) -> Result<()> {
        let what = job.what.clone();
        let mut state = self.state();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        let operation = state.operations.entry(sequence).or_insert_with(|| Operation {
            jobs: (0..self.world).map(|_| None).collect(),
            result: None,
            unseen: self.world,
        });
        operation.jobs[rank] = Some(job);
        if operation.jobs.iter().any(Option::is_none) {
            return Ok(());
        }
        let jobs: Vec<Job> = operation.jobs.iter_mut().filter_map(Option::take).collect();
        drop(state);
        let headers: Vec<Header> = jobs.iter().map(|job| job.header).collect();
        let result =
            disagreement(&headers, sequence, &what).map_or_else(|| during(Use::Communication, || perform(&jobs)), Err);
        let mut state = self.state();
        if let Err(error) = &result {
            state.broken.get_or_insert_with(|| error.clone());
        }
        if let Some(operation) = state.operations.get_mut(&sequence) {
            operation.result = Some(result);
        }
        self.changed.notify_all();
        Ok(())
    }

    fn wait(&self, sequence: u64, rank: usize, what: &str) -> Result<()> {
        let since = Instant::now();
        let mut state = self.state();
        loop {
            let Some(operation) = state.operations.get_mut(&sequence) else {
                return Err(Error::other(format!("rank {rank}: \"{what}\" (collective {sequence}) was lost")));
            };
            if let Some(result) = operation.result.clone() {
                operation.unseen -= 1;
                if operation.unseen == 0 {
                    state.operations.remove(&sequence);
                }
                return result;
            }
            // All jobs are taken: the last rank is working and will finish soon.
            let missing: Vec<usize> = match operation.jobs.iter().any(Option::is_some) {
                true => (0..self.world).filter(|&r| operation.jobs[r].is_none()).collect(),
                false => Vec::new(),
            };
            if let Some(error) = state.broken.as_ref().filter(|_| !missing.is_empty()) {
                return Err(error.clone());
            }
            let left = self.timeout.saturating_sub(since.elapsed());
            if left.is_zero() {
                let error = Error::peer(format!(
                    "rank {rank}: \"{what}\" (collective {sequence}) timed out after {:.1} s: {} did not start it",
                    self.timeout.as_secs_f64(),
                    name_ranks(&missing)
                ));
                state.broken.get_or_insert_with(|| error.clone());
                self.changed.notify_all();
                return Err(error);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Runs one operation for all ranks; `jobs` is in rank order with equal headers.
fn perform(jobs: &[Job]) -> Result<()> {
    let rows: Vec<Tensor> = jobs.iter().map(|job| job.buffer.view([-1])).collect();
    let shards: Vec<Tensor> = jobs.iter().filter_map(|job| job.shard.as_ref()).map(|shard| shard.view([-1])).collect();
    let reduce = |op: Op| -> Result<Tensor, tch::TchError> {
        let mut total = match jobs[0].header.element {
            // Rounded once, in the copy to the ranks.
            Element::F16 | Element::Bf16 => rows[0].f_to_kind(Type::Float)?,
            _ => rows[0].copy(),
        };
        for row in &rows[1..] {
            total = match op {
                Op::Sum => total.f_add_(row)?,
                Op::Max => total.f_maximum(row)?,
            };
        }
        Ok(total)
    };
    let fill = |to: &[Tensor], from: &dyn Fn(usize) -> Tensor| -> Result<(), tch::TchError> {
        to.iter().enumerate().try_for_each(|(rank, row)| row.shallow_clone().f_copy_(&from(rank)))
    };
    let done = match jobs[0].header.action {
        Action::AllReduce(op) => reduce(op).and_then(|total| fill(&rows, &|_| total.shallow_clone())),
        Action::ReduceScatter => reduce(Op::Sum).and_then(|total| {
            let n = total.numel() / jobs.len();
            fill(&shards, &|rank| total.narrow(0, (rank * n) as i64, n as i64))
        }),
        Action::AllGather => Tensor::f_cat(&shards, 0).and_then(|all| fill(&rows, &|_| all.shallow_clone())),
        Action::Broadcast { root } => {
            let source = rows[root].copy();
            fill(&rows, &|_| source.shallow_clone())
        }
        Action::Finish => Ok(()),
    };
    done.map_err(|e| Error::other(format!("{}: {e}", jobs[0])))
}

/// One rank's handle.
struct End {
    rank: usize,
    group: Arc<Group>,
    next: AtomicU64,
    left: AtomicBool,
}

impl End {
    fn submit(&self, job: Job) -> Result<Pending> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let (rank, group, what) = (self.rank, self.group.clone(), job.what.clone());
        group.arrive(sequence, rank, job)?;
        Ok(Pending::new(move || group.wait(sequence, rank, &what)))
    }
}

impl Collective for End {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.group.world
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn local_world(&self) -> usize {
        self.group.world
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        self.submit(Job::new(action, buffer, shard, what, (self.rank, self.group.world), Device::Cpu)?)
    }

    fn roll_call(&self, status: i64, time_limit: Duration) -> Vec<Option<i64>> {
        let group = &self.group;
        let mut state = group.state();
        state.roll.insert(self.rank, status);
        group.changed.notify_all();
        let (state, _) = group
            .changed
            .wait_timeout_while(state, time_limit, |state| state.roll.len() < group.world)
            .unwrap_or_else(PoisonError::into_inner);
        (0..group.world).map(|rank| state.roll.get(&rank).copied()).collect()
    }

    /// Fails the group and panics, because a rank is a thread here.
    fn abort(&self, code: i32) -> ! {
        self.left.store(true, Ordering::Relaxed);
        self.group.break_up(Error::peer(format!("rank {} aborted the job with exit code {code}", self.rank)));
        panic!("rank {} aborted the job with exit code {code}", self.rank)
    }

    fn finish(&self) -> Result<()> {
        if self.left.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.submit(Job::finish())?.wait()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            self.group.break_up(Error::peer(format!("rank {} left the group", self.rank)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::conformance;
    use crate::error::Kind;
    use std::thread;

    const TIME_LIMIT: Duration = Duration::from_secs(20);

    /// Runs `rank_main` on every rank's thread; returns the results in rank order.
    fn run<T: Send>(world: usize, timeout: Duration, rank_main: impl Fn(Arc<dyn Collective>) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let main = &rank_main;
            let ranks: Vec<_> = group(world, timeout).into_iter().map(|end| scope.spawn(move || main(end))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
        })
    }

    #[test]
    fn conforms() {
        for world in [1, 2, 3, 4] {
            run(world, TIME_LIMIT, |end| conformance::run(&*end));
        }
    }

    #[test]
    fn a_mismatch_fails_everywhere_and_names_both() {
        let errors = run(3, TIME_LIMIT, |end| {
            let n = if end.rank() == 1 { 5 } else { 4 };
            let buffer = Tensor::zeros([n], (tch::Kind::Float, Device::Cpu));
            end.start_all_reduce(&buffer, Op::Sum, "loss").and_then(Pending::wait).unwrap_err()
        });
        for error in errors {
            assert_eq!(error.kind(), Kind::Peer);
            let text = error.to_string();
            assert!(
                text.contains("ranks 0, 2: all-reduce (sum) of 4 f32; rank 1: all-reduce (sum) of 5 f32"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_rank_that_leaves_ends_the_others_waits() {
        let since = Instant::now();
        let results = run(3, TIME_LIMIT, |end| match end.rank() {
            2 => Ok(()),
            _ => end.barrier("the start"),
        });
        assert!(since.elapsed() < TIME_LIMIT / 2);
        for error in results.into_iter().take(2).map(Result::unwrap_err) {
            assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Peer, "rank 2 left the group"));
        }
    }

    #[test]
    fn abort_ends_the_others_waits() {
        let results = run(2, TIME_LIMIT, |end| match end.rank() {
            1 => std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| end.abort(7)))
                .map_err(|_| Error::other("panic")),
            _ => end.barrier("the start").map(|()| unreachable!("rank 1 never came")),
        });
        assert_eq!(results[0].as_ref().unwrap_err().to_string(), "rank 1 aborted the job with exit code 7");
    }

    #[test]
    fn a_timeout_names_the_late_rank() {
        let results = run(2, Duration::from_millis(100), |end| {
            if end.rank() == 1 {
                thread::sleep(Duration::from_millis(500));
            }
            end.barrier("the start")
        });
        for error in results.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), Kind::Peer);
            let text = error.to_string();
            assert!(
                text.contains("rank 0: \"the start\" (collective 0) timed out after 0.1 s: rank 1 did not"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_roll_call_tells_who_is_missing() {
        let answers = run(3, TIME_LIMIT, |end| match end.rank() {
            1 => Vec::new(),
            rank => end.roll_call(rank as i64 * 10, Duration::from_millis(300)),
        });
        assert_eq!(answers[2], [Some(0), None, Some(20)]);
    }
}
