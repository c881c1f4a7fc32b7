//! Collective communication between ranks.
//!
//! A [`Collective`] is one rank's handle of a group. Every rank must start the same operations with the same sizes in
//! the same order. Each `start_*` returns at once, and the buffer belongs to the operation until [`Pending::wait`]
//! returns. Four backends implement it: [`solo`] (one rank), [`threads`] (ranks as threads of one process, for tests),
//! [`mpi`] (CPU buffers between processes) and [`nccl`] (GPU buffers; it uses the MPI backend for host buffers).

#[cfg(test)]
mod conformance;
mod connections;
pub mod cores;
mod ffi;
mod fold;
pub mod host_pool;
mod job;
mod journal;
pub mod mpi;
pub mod nccl;
pub mod select;
pub mod solo;
pub mod threads;

pub use ffi::driver;
pub use ffi::process::{EXIT_NOTICE, LAUNCHED, LISTENING, exit_now, is_launched, tell_listening};
pub use job::{Action, between_hosts, name_ranks, traffic};

use crate::error::{Error, Kind, Result};
use crate::ffi::profiler;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

/// Text of a message about an unreachable host; addresses follow.
pub const NO_ACKNOWLEDGEMENT: &str = "no acknowledgement from";

/// Describes unreachable hosts according to this process's connections, for the message of a timeout.
fn silent_hosts() -> String {
    let silent = connections::silent_hosts();
    let names: Vec<String> = silent.iter().map(ToString::to_string).collect();
    match names.len() {
        0 => String::new(),
        _ => format!("; {NO_ACKNOWLEDGEMENT} {}: that host or its link is down", names.join(", ")),
    }
}

/// Returns the numbers of an i64 CPU tensor.
fn integers(tensor: &Tensor) -> Vec<i64> {
    let mut numbers = vec![0; tensor.numel()];
    tensor.copy_data(&mut numbers, tensor.numel());
    numbers
}

/// Reduction operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Sum; every rank gets the same bits.
    Sum,
    Max,
}

/// An operation under way. If dropped without [`Pending::wait`], it continues and keeps its memory, and its error is
/// lost: only for cleanup after another error.
#[must_use = "the buffer belongs to the operation until wait() returns"]
pub struct Pending {
    wait: Option<Box<dyn FnOnce() -> Result<()> + Send>>,
    /// The name in a recording of the profiler.
    what: Option<String>,
}

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// Whether a wait is under way, of which others are a part.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Returns the time that this thread has spent in [`Pending::wait`]. On a GPU that orders work and does not wait.
pub fn waited() -> Duration {
    WAITED.get()
}

impl Pending {
    /// Returns a completed operation.
    pub fn done() -> Self {
        Pending { wait: None, what: None }
    }

    /// Returns an operation that `wait` completes.
    pub fn new(wait: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Pending { wait: Some(Box::new(wait)), what: None }
    }

    /// Names the operation in a recording of the profiler.
    fn named(mut self, what: &str) -> Self {
        self.what = profiler::is_recording().then(|| what.to_owned());
        self
    }

    /// Waits until the buffer holds the result (on a GPU: orders work that is queued later after it).
    ///
    /// # Errors
    /// [`Kind::Peer`] if a rank died or the operation timed out; the message names the operation.
    pub fn wait(self) -> Result<()> {
        let Some(wait) = self.wait else { return Ok(()) };
        let _range = self.what.and_then(|what| profiler::range(|| format!("wait for {what}")));
        if WAITS.replace(true) {
            return wait();
        }
        let began = Instant::now();
        let result = wait();
        WAITED.set(WAITED.get() + began.elapsed());
        WAITS.set(false);
        result
    }
}

/// One operation of a [`Collective::start_group`], as [`Collective::start`] takes it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub action: Action,
    pub buffer: &'a Tensor,
    pub shard: Option<&'a Tensor>,
    pub what: &'a str,
}

/// One rank's handle of a group of ranks.
///
/// Buffers are contiguous tensors with dtype f32, f64, i64, u8, f16 or bf16, on the CPU or, with NCCL, on this rank's
/// GPU. On the CPU, sums of f16 and bf16 are accumulated in f32 and rounded once; NCCL may round at every addition.
/// Autograd does not record changes of the buffers. `what` names the operation in error messages ("gradients of block
/// 3").
pub trait Collective: Send + Sync {
    /// The backend's name as in `comm.backend`.
    fn name(&self) -> &'static str;
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// The number of ranks.
    fn world(&self) -> usize;
    /// This rank's index among the group's ranks on its host, from 0; among all ranks that of its GPU.
    fn local_rank(&self) -> usize;
    /// The number of the group's ranks on this host.
    fn local_world(&self) -> usize;
    /// The group's rank with local rank 0 on this host, which identifies the host.
    fn host_leader(&self) -> usize;
    /// The device on which this rank computes.
    fn device(&self) -> Device;
    /// Starts an operation on `buffer`; `shard` is this rank's part, if the operation has one. Backends implement it;
    /// callers use the four methods below.
    ///
    /// # Errors
    /// Buffers that do not match the operation; a group that has failed before.
    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending>;
    /// Exchanges `status` with all ranks that also call this within `time_limit`; `None` for a rank that did not
    /// respond. Used to find late ranks after an error; needs no order among the operations.
    fn roll_call(&self, status: i64, time_limit: Duration) -> Vec<Option<i64>>;
    /// Ends the whole job at once on every rank with this exit code. Never returns and does not block for long.
    fn abort(&self, code: i32) -> !;
    /// Leaves the group after the last operation; all ranks call it. Later calls do nothing. A group made by
    /// [`Collective::split`] ends with the group that it is part of.
    fn finish(&self) -> Result<()>;
    /// Divides the group: ranks with the same `color` form a group, in the order of `key`, then of their ranks here. All
    /// ranks of the group call it. The operations of a group and of the groups within it are one sequence: ranks that
    /// are together in several groups start the operations of these in the same order.
    ///
    /// # Errors
    /// A dead or late rank; NCCL's errors.
    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Collective>>;

    /// Starts several operations as one group: the buffers belong to them until the single wait returns. A backend may
    /// launch them together.
    ///
    /// # Errors
    /// As [`Collective::start`].
    fn start_group(&self, requests: &[Request]) -> Result<Pending> {
        let start = |r: &Request| self.start(r.action, r.buffer, r.shard, r.what);
        let mut pending = requests.iter().map(start).collect::<Result<Vec<_>>>()?;
        Ok(match pending.len() {
            0 => Pending::done(),
            1 => pending.remove(0),
            _ => Pending::new(move || pending.into_iter().try_for_each(Pending::wait)),
        }
        .named(requests.first().map_or("", |request| request.what)))
    }

    /// All-reduces `buffer` in place, with the same bits on every rank.
    fn start_all_reduce(&self, buffer: &Tensor, op: Op, what: &str) -> Result<Pending> {
        self.start(Action::AllReduce(op), buffer, None, what).map(|pending| pending.named(what))
    }

    /// Reduce-scatters `buffer` (`world` consecutive equal shards): this rank's shard of the sum goes to `shard`, which
    /// may be this rank's part of `buffer`. The rest of `buffer` is undefined afterwards.
    fn start_reduce_scatter(&self, buffer: &Tensor, shard: &Tensor, what: &str) -> Result<Pending> {
        self.start(Action::ReduceScatter, buffer, Some(shard), what).map(|pending| pending.named(what))
    }

    /// All-gathers every rank's `shard` into `buffer` in rank order. `shard` may be this rank's part of `buffer`.
    fn start_all_gather(&self, shard: &Tensor, buffer: &Tensor, what: &str) -> Result<Pending> {
        self.start(Action::AllGather, buffer, Some(shard), what).map(|pending| pending.named(what))
    }

    /// Broadcasts `root`'s `buffer` to every rank.
    fn start_broadcast(&self, buffer: &Tensor, root: usize, what: &str) -> Result<Pending> {
        self.start(Action::Broadcast { root }, buffer, None, what).map(|pending| pending.named(what))
    }
}

impl dyn Collective + '_ {
    /// Whether this rank writes files and prints.
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// Reduces a few numbers over all ranks.
    pub fn all_reduce_f64(&self, values: &mut [f64], op: Op, what: &str) -> Result<()> {
        if self.world() > 1 {
            let buffer = Tensor::from_slice(values);
            self.start_all_reduce(&buffer, op, what)?.wait()?;
            buffer.copy_data(values, values.len());
        }
        Ok(())
    }

    /// Waits until every rank has called it.
    pub fn barrier(&self, what: &str) -> Result<()> {
        self.all_reduce_f64(&mut [0.0], Op::Sum, what)
    }

    /// Broadcasts `root`'s bytes to every rank.
    pub fn broadcast_bytes(&self, bytes: Vec<u8>, root: usize, what: &str) -> Result<Vec<u8>> {
        if self.world() == 1 {
            return Ok(bytes);
        }
        let size = Tensor::from_slice(&[bytes.len() as i64]);
        self.start_broadcast(&size, root, what)?.wait()?;
        let n = size.int64_value(&[0]) as usize;
        let mut bytes = if self.rank() == root { bytes } else { vec![0; n] };
        if n > 0 {
            let buffer = Tensor::from_slice(&bytes);
            self.start_broadcast(&buffer, root, what)?.wait()?;
            buffer.copy_data(&mut bytes, n);
        }
        Ok(bytes)
    }

    /// Shares errors: if any rank has an error, all ranks return an error of the same kind with the message of the
    /// first failed rank, so that all can exit together.
    pub fn agree<T>(&self, result: Result<T>, what: &str) -> Result<T> {
        if self.world() == 1 {
            return result.map_err(Error::shared);
        }
        let none = self.world() as f64;
        let mut first = [if result.is_err() { -(self.rank() as f64) } else { -none }];
        self.all_reduce_f64(&mut first, Op::Max, what)?;
        let first = -first[0];
        if first == none {
            return result;
        }
        let mine = match &result {
            Err(e) if self.rank() as f64 == first => {
                let mut bytes = (e.kind().exit_code() as u8).to_le_bytes().to_vec();
                bytes.extend_from_slice(e.to_string().as_bytes());
                bytes
            }
            _ => Vec::new(),
        };
        let bytes = self.broadcast_bytes(mine, first as usize, what)?;
        let (code, message) = bytes.split_first().ok_or_else(|| Error::other(format!("{what}: an empty error")))?;
        Err(Error::new(Kind::from_exit_code(i32::from(*code)), String::from_utf8_lossy(message)).shared())
    }
}
