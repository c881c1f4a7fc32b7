//! Ranks as processes that MPI started; buffers on the CPU.
//!
//! One thread makes all MPI calls; the rank's other threads send it commands. An operation has two halves. First the
//! *gate*: each rank tells all others what it is about to do, by a nonblocking gather that the thread polls with short
//! sleeps, so that waiting for a slow rank costs this rank's computing thread next to nothing. When all ranks have
//! arrived and agree, the *work*: MPI's blocking collective, which nobody is late for any more. That is faster than
//! the nonblocking collectives (all-reduce of 47 MB f32 between two ranks on two cores, Open MPI 4.1: 10 ms in 4 MB
//! segments, 18 ms in one blocking call, 47 ms nonblocking), finds mismatches before they corrupt anything, and knows
//! who is late. Every rank gets the same bits from all MPIs' all-reduce algorithms that we know of.
//!
//! What MPI lacks, sums of f16 and bf16 and a reduce-scatter in place, the ranks do themselves: they exchange their
//! parts and add up (`comm::ffi::mpi::work`, `fold`). A reduce-scatter and an all-gather together cost what an all-reduce
//! does.

mod server;
mod shared;

pub use super::ffi::mpi::library_version;

use super::job::{Action, Job};
use super::journal::Journal;
use super::{Collective, Pending, ffi};
use crate::error::{Error, Result};
use crate::ffi::memory::{Use, during};
use server::Command;
use shared::{Outcome, Shared};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

/// How long the MPI thread may take for `MPI_Abort` before the process just ends.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);
/// A waiting thread gives the MPI thread, which knows more, this much time to report a timeout first.
const GRACE: Duration = Duration::from_secs(1);
/// How long before the verdict on a wait it is asked which hosts are there.
const PROBE_FOR: Duration = Duration::from_secs(5);

/// This process's end of `MPI_COMM_WORLD`.
pub struct Mpi {
    place: Place,
    link: Arc<Link>,
    finished: AtomicBool,
}

/// Where this rank is.
#[derive(Clone, Copy)]
struct Place {
    rank: usize,
    world: usize,
    local_rank: usize,
    local_world: usize,
}

/// What the MPI thread and the others share.
struct Link {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

impl Mpi {
    /// Initialises MPI, on a thread of its own. An operation that gets nowhere for `timeout` is an error.
    ///
    /// # Errors
    /// When MPI cannot start. Without `mpirun` it makes a world of one rank.
    pub fn connect(timeout: Duration) -> Result<Mpi> {
        let (commands, inbox) = channel();
        let (tell, told) = channel();
        let gone = |_| Error::other("the MPI thread ended while MPI was starting");
        thread::Builder::new().name("mpi".to_string()).spawn(move || {
            let world = match ffi::mpi::World::open() {
                Ok(world) => world,
                Err(error) => return drop(tell.send(Err(error))),
            };
            let place = Place {
                rank: world.rank,
                world: world.size,
                local_rank: world.local_rank,
                local_world: world.local_size,
            };
            let journal = Mutex::new(Journal::new(world.rank));
            let shared = Arc::new(Shared { timeout, journal, waiting: AtomicUsize::new(0) });
            if tell.send(Ok((place, shared.clone()))).is_ok() {
                // All tensors of this thread are staging; what the MPI library takes for itself is not counted.
                during(Use::Communication, || server::serve(world, &inbox, &shared));
            }
        })?;
        let (place, shared) = told.recv().map_err(gone)??;
        Ok(Mpi { place, link: Arc::new(Link { commands, shared }), finished: AtomicBool::new(false) })
    }

    fn submit(&self, job: Job) -> Result<Pending> {
        let (rank, label, started) = (self.place.rank, job.to_string(), Instant::now());
        let sequence = self.link.shared.journal().start(&job);
        let outcome = Arc::new(Outcome::default());
        let ticket = server::Ticket { sequence, job, started, outcome: outcome.clone() };
        // If the MPI thread is gone, the ticket is dropped here, and that is its outcome.
        let _ = self.link.commands.send(Command::Start(ticket));
        let link = self.link.clone();
        Ok(Pending::new(move || {
            link.wait(&outcome, started).map_err(|e| e.context(format!("rank {rank}: {label}, collective {sequence}")))
        }))
    }
}

impl Link {
    fn wait(&self, outcome: &Outcome, started: Instant) -> Result<()> {
        if let Some(result) = outcome.wait(Duration::ZERO) {
            return result;
        }
        let shared = &self.shared;
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.commands.send(Command::Hurry);
        let mut probes = None;
        let result = loop {
            if let Some(result) = outcome.wait(GRACE / 4) {
                break result;
            }
            let stalled = shared.journal().stalled_since(started).elapsed();
            if stalled + PROBE_FOR > shared.timeout {
                probes.get_or_insert_with(super::connections::Probes::start);
            }
            if stalled > shared.timeout + GRACE {
                shared.journal().dump();
                break Err(Error::peer(format!(
                    "nothing moved for {:.1} s although all ranks had started it: one of them died or stopped inside it, \
                     or the network is down{}",
                    stalled.as_secs_f64(),
                    super::silent_hosts()
                )));
            }
        };
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }
}

impl Collective for Mpi {
    fn name(&self) -> &'static str {
        "mpi"
    }

    fn rank(&self) -> usize {
        self.place.rank
    }

    fn world(&self) -> usize {
        self.place.world
    }

    fn local_rank(&self) -> usize {
        self.place.local_rank
    }

    fn local_world(&self) -> usize {
        self.place.local_world
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        self.submit(Job::new(action, buffer, shard, what, (self.place.rank, self.place.world), Device::Cpu)?)
    }

    fn roll_call(&self, status: i64, patience: Duration) -> Vec<Option<i64>> {
        let (reply, answers) = channel();
        let _ = self.link.commands.send(Command::RollCall { status, patience, reply });
        answers.recv_timeout(patience + GRACE).unwrap_or_else(|_| {
            // The MPI thread is stuck: all that we know is our own.
            (0..self.place.world).map(|rank| (rank == self.place.rank).then_some(status)).collect()
        })
    }

    /// `MPI_Abort` by the MPI thread; if that takes too long, this process alone ends, and mpirun ends the others.
    fn abort(&self, code: i32) -> ! {
        ffi::process::flush_output();
        ffi::process::tell_launcher(code);
        let _ = self.link.commands.send(Command::Abort(code));
        thread::sleep(ABORT_PATIENCE);
        ffi::process::exit_now(code)
    }

    fn finish(&self) -> Result<()> {
        if self.finished.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.submit(Job::finish())?.wait()
    }
}
