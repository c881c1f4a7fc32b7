//! The threads backend for tests: ranks as threads of one process, with the same checks as between processes.
//!
//! The last rank to arrive does the work for all in rank order, so every rank gets the same bits.

use super::job::{Action, Element, Header, Job, Place, disagreement, name_ranks};
use super::{Collective, Op, Pending, integers};
use crate::error::{Error, Result};
use crate::ffi::memory::{Use, during};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tch::{Device, Kind as Type, Tensor};

/// Returns the handles of a group of `world` ranks; a wait longer than `timeout` is an error on all ranks.
pub fn group(world: usize, timeout: Duration) -> Vec<Arc<dyn Collective>> {
    hosts(world, world, timeout)
}

/// Returns the same, with `per_host` consecutive ranks on each of several simulated hosts.
pub fn hosts(world: usize, per_host: usize, timeout: Duration) -> Vec<Arc<dyn Collective>> {
    let group = Arc::new(Group::new((0..world).collect(), per_host, timeout, None));
    (0..world).map(|rank| Arc::new(End::new(rank, Arc::clone(&group))) as Arc<dyn Collective>).collect()
}

struct Group {
    world: usize,
    /// Ranks in the outermost group.
    members: Vec<usize>,
    /// Consecutive ranks of the outermost group that share a simulated host.
    per_host: usize,
    /// The group that this one is a part of.
    parent: Option<Arc<Group>>,
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
    /// The groups that this one was divided into, by the number of the split and color.
    parts: HashMap<(u64, i64), Weak<Group>>,
}

struct Operation {
    jobs: Vec<Option<Job>>,
    result: Option<Result<()>>,
    /// Number of ranks that have not read the result yet.
    unseen: usize,
}

impl Group {
    fn new(members: Vec<usize>, per_host: usize, timeout: Duration, parent: Option<Arc<Group>>) -> Group {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Group { world: members.len(), members, per_host, parent, timeout, state, changed }
    }

    /// Returns the ranks on the same host as this one.
    fn neighbors(&self, rank: usize) -> Vec<usize> {
        let host = |rank: usize| self.members[rank] / self.per_host;
        (0..self.world).filter(|&other| host(other) == host(rank)).collect()
    }

    fn place(&self, rank: usize) -> Place {
        let neighbors = self.neighbors(rank);
        let local_rank = neighbors.iter().position(|&other| other == rank).unwrap_or(0);
        Place { rank, world: self.world, local_rank, local_world: neighbors.len() }
    }

    /// Locks the state, even after another rank's thread panicked, which is reported too.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every pending wait an error, here and in the groups within this one.
    fn break_up(&self, why: &Error) {
        let mut state = self.state();
        state.broken.get_or_insert_with(|| why.clone());
        let parts: Vec<Arc<Group>> = state.parts.values().filter_map(Weak::upgrade).collect();
        drop(state);
        self.changed.notify_all();
        parts.iter().for_each(|part| part.break_up(why));
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
        let result = disagreement(&headers, &self.members, sequence, &what)
            .map_or_else(|| during(Use::Communication, || perform(&jobs)), Err);
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
                true => (0..self.world).filter(|&r| operation.jobs[r].is_none()).map(|r| self.members[r]).collect(),
                false => Vec::new(),
            };
            if let Some(error) = state.broken.as_ref().filter(|_| !missing.is_empty()) {
                return Err(error.clone());
            }
            let left = self.timeout.saturating_sub(since.elapsed());
            if left.is_zero() {
                let error = Error::peer(format!(
                    "rank {}: \"{what}\" (collective {sequence}) timed out after {:.1} s: {} did not start it",
                    self.members[rank],
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
        Action::Finish | Action::Split => Ok(()),
    };
    done.map_err(|e| Error::other(format!("{}: {e}", jobs[0])))
}

/// One rank's handle.
struct End {
    rank: usize,
    group: Arc<Group>,
    next: AtomicU64,
    splits: AtomicU64,
    left: AtomicBool,
}

impl End {
    fn new(rank: usize, group: Arc<Group>) -> End {
        End { rank, group, next: AtomicU64::new(0), splits: AtomicU64::new(0), left: AtomicBool::new(false) }
    }

    fn label(&self) -> String {
        format!("rank {}", self.group.members[self.rank])
    }

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
        self.group.place(self.rank).local_rank
    }

    fn local_world(&self) -> usize {
        self.group.place(self.rank).local_world
    }

    fn host_leader(&self) -> usize {
        self.group.neighbors(self.rank)[0]
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        self.submit(Job::new(action, buffer, shard, what, self.group.place(self.rank), Device::Cpu)?)
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
        let mut outermost = &self.group;
        while let Some(parent) = &outermost.parent {
            outermost = parent;
        }
        let why = format!("{} aborted the job with exit code {code}", self.label());
        outermost.break_up(&Error::peer(&why));
        panic!("{why}")
    }

    fn finish(&self) -> Result<()> {
        if self.left.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        if self.group.parent.is_some() {
            return Ok(());
        }
        self.submit(Job::finish())?.wait()
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Collective>> {
        let mine = Tensor::from_slice(&[color as i64, key as i64]);
        let all = Tensor::zeros([2 * self.group.world as i64], (Type::Int64, Device::Cpu));
        self.start(Action::AllGather, &all, Some(&mine), "dividing the ranks")?.wait()?;
        let numbers = integers(&all);
        let mut ranks: Vec<usize> = (0..self.group.world).filter(|&r| numbers[2 * r] == color as i64).collect();
        ranks.sort_by_key(|&rank| (numbers[2 * rank + 1], rank));
        let rank = ranks.iter().position(|&rank| rank == self.rank).unwrap_or(0);
        let split = self.splits.fetch_add(1, Ordering::Relaxed);
        let part = {
            let members = ranks.iter().map(|&rank| self.group.members[rank]).collect();
            let mut state = self.group.state();
            let known = state.parts.get(&(split, color as i64)).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let (Group { per_host, timeout, .. }, parent) = (&*self.group, Some(Arc::clone(&self.group)));
                let part = Arc::new(Group::new(members, *per_host, *timeout, parent));
                part.state().broken.clone_from(&state.broken);
                state.parts.insert((split, color as i64), Arc::downgrade(&part));
                part
            })
        };
        let end = Arc::new(End::new(rank, part)) as Arc<dyn Collective>;
        // All have found the group before any of them can leave it.
        end.barrier("dividing the ranks")?;
        Ok(end)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            self.group.break_up(&Error::peer(format!("{} left the group", self.label())));
        }
    }
}

#[cfg(test)]
mod tests;
