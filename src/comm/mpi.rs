//! The MPI backend: ranks as processes, buffers on the CPU.
//!
//! One thread makes all MPI calls; the rank's other threads send it commands. An operation has two parts. First the
//! *gate*: each rank announces its next operation to all others by a nonblocking gather, which the thread polls with
//! short sleeps, so that waiting for a slow rank needs almost no CPU time. Once all ranks have arrived and agree, the
//! *work*: MPI's blocking collective, for which no rank is late. This is faster than the nonblocking collectives
//! (all-reduce of 47 MB f32 between two ranks on two cores, Open MPI 4.1: 10 ms in 4 MB segments, 18 ms in one blocking
//! call, 47 ms nonblocking), detects mismatches before they corrupt data, and knows the late rank. Every rank gets the
//! same bits from the all-reduce algorithms of all MPI libraries that we know.
//!
//! For what MPI lacks, sums of f16 and bf16 and an in-place reduce-scatter, the ranks exchange their parts and add them
//! (`comm::ffi::mpi::work`, `fold`). A reduce-scatter plus an all-gather costs as much as an all-reduce.

mod server;
mod shared;

pub use super::ffi::mpi::library_version;

use super::job::{Action, Job, Place};
use super::journal::Journal;
use super::{Collective, Pending, ffi, integers};
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

/// Time limit for `MPI_Abort` on the MPI thread before the process exits.
const ABORT_TIME_LIMIT: Duration = Duration::from_secs(2);
/// Extra time for the MPI thread, which knows more, to report a timeout before a waiting thread does.
const GRACE: Duration = Duration::from_secs(1);
/// Time before a timeout at which the connections are probed.
const PROBE_FOR: Duration = Duration::from_secs(5);

/// This process's handle of `MPI_COMM_WORLD`, or of a part of it.
pub struct Mpi {
    /// Number of the group on this rank, from 0 for all ranks.
    group: usize,
    place: Place,
    host_leader: usize,
    /// This rank in the world, for messages.
    world_rank: usize,
    link: Arc<Link>,
    finished: AtomicBool,
}

/// State shared by the MPI thread and the other threads.
struct Link {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

impl Mpi {
    /// Initializes MPI on its own thread. An operation without progress for `timeout` is an error.
    ///
    /// # Errors
    /// If MPI cannot start. Without `mpirun` the world has one rank.
    pub fn connect(timeout: Duration) -> Result<Mpi> {
        let (commands, inbox) = channel();
        let (sender, receiver) = channel();
        let gone = |_| Error::other("the MPI thread ended while MPI was starting");
        thread::Builder::new().name("mpi".to_string()).spawn(move || {
            let world = match ffi::mpi::World::open() {
                Ok(world) => world,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let (place, host_leader) = (world.group.place, world.group.host_leader);
            let journal = Mutex::new(Journal::new(place.rank));
            let shared = Arc::new(Shared { timeout, journal, waiting: AtomicUsize::new(0) });
            if sender.send(Ok((place, host_leader, shared.clone()))).is_ok() {
                // All tensors of this thread are staging buffers; memory of the MPI library is not counted.
                during(Use::Communication, || server::serve(world, &inbox, &shared));
            }
        })?;
        let (place, host_leader, shared) = receiver.recv().map_err(gone)??;
        let link = Arc::new(Link { commands, shared });
        Ok(Mpi { group: 0, place, host_leader, world_rank: place.rank, link, finished: AtomicBool::new(false) })
    }

    fn submit(&self, job: Job) -> Result<Pending> {
        let (rank, label, started) = (self.world_rank, job.to_string(), Instant::now());
        let sequence = self.link.shared.journal().start(&job);
        let outcome = Arc::new(Outcome::default());
        let ticket = server::Ticket { group: self.group, sequence, job, started, outcome: outcome.clone() };
        // If the MPI thread has ended, the ticket is dropped here, which sets its result.
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
                    "no progress for {:.1} s although all ranks had started it: one of them died or stopped inside it, \
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

    fn host_leader(&self) -> usize {
        self.host_leader
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn start(&self, action: Action, buffer: &Tensor, shard: Option<&Tensor>, what: &str) -> Result<Pending> {
        self.submit(Job::new(action, buffer, shard, what, self.place, Device::Cpu)?)
    }

    fn roll_call(&self, status: i64, time_limit: Duration) -> Vec<Option<i64>> {
        let (reply, answers) = channel();
        let _ = self.link.commands.send(Command::RollCall { group: self.group, status, time_limit, reply });
        answers.recv_timeout(time_limit + GRACE).unwrap_or_else(|_| {
            // The MPI thread is blocked: only our own status is known.
            (0..self.place.world).map(|rank| (rank == self.place.rank).then_some(status)).collect()
        })
    }

    /// Calls `MPI_Abort` on the MPI thread; if that takes too long, exits this process, and mpirun ends the others.
    fn abort(&self, code: i32) -> ! {
        ffi::process::flush_output();
        ffi::process::tell_launcher(code);
        let _ = self.link.commands.send(Command::Abort(code));
        thread::sleep(ABORT_TIME_LIMIT);
        ffi::process::exit_now(code)
    }

    fn finish(&self) -> Result<()> {
        if self.group > 0 || self.finished.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.submit(Job::finish())?.wait()
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Collective>> {
        let mut numbers = [0i64; server::SPLIT_NUMBERS];
        (numbers[0], numbers[1]) = (color as i64, key as i64);
        let buffer = Tensor::from_slice(&numbers);
        self.start(Action::Split, &buffer, None, "dividing the ranks")?.wait()?;
        let found: Vec<usize> = integers(&buffer).into_iter().map(|n| n as usize).collect();
        Ok(Arc::new(Mpi {
            group: found[0],
            place: Place { rank: found[1], world: found[2], local_rank: found[3], local_world: found[4] },
            host_leader: found[5],
            world_rank: self.world_rank,
            link: Arc::clone(&self.link),
            finished: AtomicBool::new(false),
        }))
    }
}
