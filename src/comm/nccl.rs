//! The NCCL backend: one GPU per rank. Buffers on the GPU are reduced by NCCL on a separate stream that overlaps with
//! libtorch's. Buffers on the host, and NCCL's unique id, go through the underlying MPI backend.
//!
//! Events order the streams: a collective waits for the work in libtorch's stream when it starts, and work queued in
//! libtorch's stream after `wait` waits for the collective. The host waits for neither. If a rank dies, NCCL's kernels
//! on the others spin forever and even `ncclCommAbort` can hang; a watchdog thread ends the process instead.

pub mod probe;
mod watchdog;

use super::ffi::cuda::{self, ComputeStream, Event, Gpu};
use super::ffi::nccl::Communicator;
use super::job::{Action, Job, Place};
use super::{Collective, Pending, Request};
use crate::error::{Error, Result};
pub use probe::{Probe, Sharing, probe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tch::{Cuda, Device, Tensor};
use watchdog::Watchdog;

/// This rank's handle of a group of GPUs.
pub struct Nccl {
    below: Arc<dyn Collective>,
    /// Whether the group is a part of another one, with which it ends.
    is_part: bool,
    device: Device,
    timeout: Duration,
    gpu: Arc<Gpu>,
    compute: ComputeStream,
    communicator: Arc<Communicator>,
    /// That of all groups of this rank. Their collectives run in one stream, in the order in which they were started.
    watchdog: Arc<Watchdog>,
    finished: AtomicBool,
}

impl Nccl {
    /// Connects NCCL over the backend `below`; all ranks call it. libtorch computes on the default stream of this
    /// rank's GPU, which is that of its local rank, or the only visible one.
    ///
    /// # Errors
    /// The same on all ranks, if one of them has no library, driver or GPU.
    pub fn connect(below: Arc<dyn Collective>, timeout: Duration) -> Result<Nccl> {
        let rank = below.rank();
        let at_rank = |e: Error| e.context(format!("rank {rank}"));
        let own = probe::load().and_then(|found| {
            let fake = cuda::fake_gpus()?.is_some();
            let device = |ordinal| if fake { Device::Cpu } else { Device::Cuda(ordinal) };
            let ordinal = ordinal(below.local_rank(), gpus()?, found.sharing)?;
            Ok((found.nccl, found.sharing, device(ordinal), Gpu::open(ordinal)?))
        });
        let (nccl, sharing, device, gpu) = below.agree(own.map_err(at_rank), "loading NCCL")?;
        let id = if rank == 0 { nccl.unique_id() } else { Ok(Vec::new()) };
        let id = below.broadcast_bytes(below.agree(id.map_err(at_rank), "the NCCL id")?, 0, "the NCCL id")?;
        let watchdog = Arc::new(Watchdog::start(below.clone(), timeout)?);
        let connecting = watchdog.begin(&Job::named("connecting the ranks in NCCL"));
        let opened = Communicator::open(nccl, Some(gpu.clone()), &id, rank, below.world());
        // The messages of NCCL before 2.30, and since.
        let shared = |text: &str| ["Duplicate GPU", "using the same GPU"].iter().any(|words| text.contains(words));
        let opened = opened.map_err(|e| match shared(&e.to_string()) {
            true => Error::input(format!("{e}: {}", sharing.remedy())),
            false => e,
        });
        watchdog.end(connecting);
        let communicator = Arc::new(below.agree(opened.map_err(at_rank), "connecting in NCCL")?);
        watchdog.watch(communicator.clone());
        let compute = ComputeStream::default();
        let (is_part, finished) = (false, AtomicBool::new(false));
        Ok(Nccl { below, is_part, device, timeout, gpu, compute, communicator, watchdog, finished })
    }

    /// Whether a buffer goes through the underlying backend. With the fake driver none does: GPU memory is host memory.
    fn is_below(&self, buffer: &Tensor) -> bool {
        buffer.device() != self.device && buffer.device() == Device::Cpu
    }

    /// Waits for the last collectives, then for the other ranks.
    fn drain(&self, what: &str) -> Result<()> {
        let (since, end) = (Instant::now(), self.gpu.end()?);
        while !end.reached()? {
            if since.elapsed() > self.timeout {
                return Err(Error::peer(format!("rank {}: {what}: earlier collectives did not end", self.rank())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.below.barrier(what)
    }

    fn enqueue(&self, requests: &[Request]) -> Result<Pending> {
        let (local_rank, local_world) = (self.local_rank(), self.local_world());
        let place = Place { rank: self.rank(), world: self.world(), local_rank, local_world };
        let job = |r: &Request| Job::new(r.action, r.buffer, r.shard, r.what, place, self.device);
        let jobs = requests.iter().map(job).collect::<Result<Vec<_>>>()?;
        if jobs.is_empty() {
            return Ok(Pending::done());
        }
        let sequence = self.watchdog.begin(&jobs.iter().map(Job::to_string).collect::<Vec<_>>().join(" + "));
        let follow = || self.gpu.follow(self.compute);
        let end = follow().and_then(|()| self.communicator.enqueue(&jobs)).and_then(|()| self.gpu.end());
        let end = Arc::new(end.inspect_err(|_| self.watchdog.end(sequence))?);
        self.watchdog.expect(sequence, end.clone());
        let flight = Flight { end: Some(end), compute: self.compute, _jobs: jobs };
        Ok(Pending::new(move || flight.land()))
    }
}

/// A group of collectives in the stream, and the memory that they use, which libtorch must not reuse before its own
/// stream waits for ours.
struct Flight {
    end: Option<Arc<Event>>,
    compute: ComputeStream,
    _jobs: Vec<Job>,
}

impl Flight {
    fn land(mut self) -> Result<()> {
        self.end.take().map_or(Ok(()), |end| end.hold(self.compute))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.hold(self.compute);
        }
    }
}

/// Returns the number of GPUs that a rank started from here would find, as counted by libtorch: 0 without CUDA support.
///
/// # Errors
/// A broken driver.
pub fn gpus() -> Result<usize> {
    Ok(cuda::fake_gpus()?.unwrap_or_else(|| Cuda::device_count().max(0) as usize))
}

/// Returns the index of a rank's GPU among the visible ones.
///
/// # Errors
/// If there is no GPU, or more ranks on a host than GPUs that may not be shared.
pub fn ordinal(local_rank: usize, gpus: usize, sharing: Sharing) -> Result<usize> {
    match gpus {
        0 => {
            let why = cuda::check_driver().err().map_or_else(
                || "no device is visible (check CUDA_VISIBLE_DEVICES), or libtorch is the CPU build".to_string(),
                |e| e.to_string(),
            );
            Err(Error::input(format!("NCCL needs a GPU, but libtorch finds none: {why}")))
        }
        1 => Ok(0),
        _ if local_rank < gpus || sharing == Sharing::Allowed => Ok(local_rank % gpus),
        _ => Err(Error::input(format!(
            "this host has {gpus} visible GPUs but at least {} ranks: {}",
            local_rank + 1,
            sharing.remedy()
        ))),
    }
}

/// Returns the number of ranks per GPU, among `local_ranks` of a host with `gpus` visible GPUs.
pub fn ranks_of_a_gpu(local_ranks: usize, gpus: usize) -> usize {
    if probe::wants_sharing() { local_ranks.div_ceil(gpus.max(1)).max(1) } else { 1 }
}

/// Opens and closes a one-rank communicator, to test NCCL on this machine.
///
/// # Errors
/// NCCL's error, with its cause if that is a missing driver.
pub fn try_alone() -> Result<()> {
    let found = probe::load()?;
    let gpu = Gpu::open(0);
    let id = found.nccl.unique_id()?;
    let opened = Communicator::open(found.nccl, gpu.as_ref().ok().cloned(), &id, 0, 1);
    match (opened, gpu) {
        (Ok(communicator), _) => communicator.close(),
        (Err(refusal), Ok(_)) => Err(refusal),
        (Err(refusal), Err(cause)) => Err(refusal.context(cause)),
    }
}

impl Collective for Nccl {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn rank(&self) -> usize {
        self.below.rank()
    }

    fn world(&self) -> usize {
        self.below.world()
    }

    fn local_rank(&self) -> usize {
        self.below.local_rank()
    }

    fn local_world(&self) -> usize {
        self.below.local_world()
    }

    fn host_leader(&self) -> usize {
        self.below.host_leader()
    }

    fn device(&self) -> Device {
        self.device
    }

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        if self.is_below(buffer) {
            return self.below.start(action, buffer, shard, what);
        }
        self.enqueue(&[Request { action, buffer, shard, what }])
    }

    /// Operations on the GPU become one NCCL group with one event at its end.
    fn start_group(&self, requests: &[Request]) -> Result<Pending> {
        let (below, ours): (Vec<Request>, Vec<Request>) = requests.iter().partition(|r| self.is_below(r.buffer));
        let (below, ours) = (self.below.start_group(&below)?, self.enqueue(&ours)?);
        Ok(Pending::new(move || below.wait().and_then(|()| ours.wait())))
    }

    fn roll_call(&self, status: i64, time_limit: Duration) -> Vec<Option<i64>> {
        self.below.roll_call(status, time_limit)
    }

    fn abort(&self, code: i32) -> ! {
        self.below.abort(code)
    }

    fn finish(&self) -> Result<()> {
        if self.is_part || self.finished.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // Closing a communicator involves all of its ranks.
        self.drain("closing NCCL")?;
        let closing = self.watchdog.begin(&Job::named("closing NCCL"));
        self.watchdog.communicators().iter().rev().try_for_each(|communicator| communicator.close())?;
        self.watchdog.end(closing);
        self.below.finish()
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Collective>> {
        let below = self.below.split(color, key)?;
        // NCCL asks for a communicator without collectives under way.
        self.drain("dividing the ranks in NCCL")?;
        let dividing = self.watchdog.begin(&Job::named("dividing the ranks in NCCL"));
        let connect = || {
            if let Some(part) = self.communicator.split(color, key, below.rank())? {
                return Ok(part);
            }
            let id = if below.rank() == 0 { self.communicator.unique_id() } else { Ok(Vec::new()) };
            let id = below.broadcast_bytes(below.agree(id, "the NCCL id")?, 0, "the NCCL id")?;
            self.communicator.connect_part(&id, below.rank(), below.world())
        };
        let part = connect().map_err(|e| e.context(format!("rank {}", self.rank())));
        self.watchdog.end(dividing);
        let communicator = Arc::new(self.below.agree(part, "dividing the ranks in NCCL")?);
        self.watchdog.watch(communicator.clone());
        Ok(Arc::new(Nccl {
            below,
            is_part: true,
            device: self.device,
            timeout: self.timeout,
            gpu: self.gpu.clone(),
            compute: self.compute,
            communicator,
            watchdog: self.watchdog.clone(),
            finished: AtomicBool::new(false),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_its_gpu() {
        let alone = |local_rank, gpus| ordinal(local_rank, gpus, Sharing::Unwanted);
        assert_eq!(alone(3, 8).unwrap(), 3);
        assert_eq!(alone(3, 1).unwrap(), 0); // the launcher gave each rank its own
        let message = alone(2, 2).unwrap_err().to_string();
        assert!(
            message.contains("has 2 visible GPUs but at least 3 ranks") && message.contains("one rank per GPU"),
            "{message}"
        );
        assert!(alone(0, 0).is_err() && ordinal(0, 0, Sharing::Allowed).is_err());
        let shared = |local_rank| ordinal(local_rank, 2, Sharing::Allowed).unwrap();
        assert_eq!([0, 1, 2, 3].map(shared), [0, 1, 0, 1]);
        assert!(ordinal(2, 2, Sharing::TooOld).unwrap_err().to_string().contains("NCCL 2.30 or newer"));
        assert_eq!(ranks_of_a_gpu(4, 1), 1, "sharing is not requested where this test runs");
    }
}
