//! The MPI thread: receives commands, opens gates, runs operations, and detects a lack of progress.

use super::shared::{Outcome, Shared};
use crate::comm::ffi::mpi::{Channel, Gather, Group, World};
use crate::comm::integers;
use crate::comm::job::{Action, Header, Job, Place, disagreement, name_ranks};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};
use tch::Tensor;

/// Time for which the thread spins while another thread waits.
const HOT: Duration = Duration::from_millis(2);
/// Minimum pause between polls while the rank computes: short against an operation, long against a poll (13 us).
const NAP: Duration = Duration::from_micros(150);
/// The same while a thread waits, after [`HOT`].
const SHORT_NAP: Duration = Duration::from_micros(50);
/// Pauses grow with the idle time up to this fraction, so that delay and cost stay small.
const LONG_NAP: Duration = Duration::from_millis(1);
const NAPS_IN_QUIET: u32 = 64;
/// Pause between polls while nothing is under way: MPI may have to forward messages.
const IDLE: Duration = Duration::from_millis(5);

/// Commands to the MPI thread.
pub enum Command {
    Start(Ticket),
    /// A thread waits now: poll without sleeping.
    Hurry,
    RollCall {
        group: usize,
        status: i64,
        time_limit: Duration,
        reply: Sender<Vec<Option<i64>>>,
    },
    Abort(i32),
}

/// An operation and its result.
pub struct Ticket {
    /// Number of the group on this rank, from 0 for all ranks.
    pub group: usize,
    pub sequence: u64,
    pub job: Job,
    pub started: Instant,
    pub outcome: Arc<Outcome>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Has no effect if there is a result.
        self.outcome.set(Err(Error::peer("the MPI thread has ended")));
    }
}

/// An operation whose gate is still closed.
struct Queued {
    ticket: Ticket,
    gate: Gather,
}

/// A roll call under way.
struct Roll {
    gather: Gather,
    until: Instant,
    reply: Sender<Vec<Option<i64>>>,
}

/// Runs until the group is finished or no thread can send commands any more.
pub fn serve(world: World, inbox: &Receiver<Command>, shared: &Shared) {
    let last = {
        let groups = vec![Rc::clone(&world.group)];
        let server = Server { world: &world, groups, shared, queue: VecDeque::new(), rolls: Vec::new(), broken: None };
        server.run(inbox)
    };
    let Some(last) = last else { return };
    let result = world.close();
    shared.journal().finish(last.sequence);
    last.outcome.set(result);
}

struct Server<'a> {
    world: &'a World,
    /// All ranks, then the groups that they were divided into, in the order of the splits.
    groups: Vec<Rc<Group>>,
    shared: &'a Shared,
    /// The operations of all groups in the order in which they were started. Work in this order cannot hang as long as
    /// ranks that share groups have the same order, because the earliest operation that is not done has no earlier one
    /// to wait for on any of its ranks.
    queue: VecDeque<Queued>,
    rolls: Vec<Roll>,
    /// The error after which no operation can run, because the ranks are no longer in step.
    broken: Option<Error>,
}

impl Server<'_> {
    /// Returns the ticket of the last operation when all ranks have reached it.
    fn run(mut self, inbox: &Receiver<Command>) -> Option<Ticket> {
        let mut quiet_since = Instant::now();
        loop {
            match self.next(inbox, quiet_since) {
                Ok(Some(command)) => {
                    self.obey(command);
                    quiet_since = Instant::now();
                }
                Ok(None) => {}
                Err(()) => return None,
            }
            self.answer_rolls();
            match self.advance() {
                Ok(None) => {}
                Ok(Some(done)) if done.job.header.action == Action::Finish => return Some(done),
                Ok(Some(mut done)) => {
                    self.shared.journal().finish(done.sequence);
                    // Free the buffers before their owner is notified and allocates new ones.
                    done.job = Job::finish();
                    done.outcome.set(Ok(()));
                    quiet_since = Instant::now();
                }
                Err(error) => self.give_up(error),
            }
        }
    }

    /// Returns the next command, if one arrives within the current pause; an error if none can arrive.
    fn next(&self, inbox: &Receiver<Command>, quiet_since: Instant) -> Result<Option<Command>, ()> {
        let busy = !self.queue.is_empty() || !self.rolls.is_empty();
        let waited_for = busy && self.shared.waiting.load(Ordering::Relaxed) > 0;
        let quiet = quiet_since.elapsed();
        let pause = match (busy, waited_for) {
            (false, _) => IDLE,
            (true, false) => (quiet / NAPS_IN_QUIET).clamp(NAP, LONG_NAP),
            (true, true) if quiet > HOT => (quiet / NAPS_IN_QUIET).clamp(SHORT_NAP, LONG_NAP),
            (true, true) => {
                return match inbox.try_recv() {
                    Ok(command) => Ok(Some(command)),
                    Err(TryRecvError::Disconnected) => Err(()),
                    Err(TryRecvError::Empty) => {
                        thread::yield_now();
                        Ok(None)
                    }
                };
            }
        };
        match inbox.recv_timeout(pause) {
            Ok(command) => Ok(Some(command)),
            Err(RecvTimeoutError::Disconnected) => Err(()),
            Err(RecvTimeoutError::Timeout) => {
                if !busy {
                    self.groups[0].progress();
                }
                Ok(None)
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Hurry => {}
            Command::Abort(code) => self.world.abort(code),
            Command::Start(ticket) => {
                let gate = match &self.broken {
                    Some(error) => Err(error.clone()),
                    None => self.groups[ticket.group].gather(Channel::Gates, &ticket.job.header.encode()),
                };
                match gate {
                    Ok(gate) => self.queue.push_back(Queued { ticket, gate }),
                    Err(error) => ticket.outcome.set(Err(error)),
                }
            }
            Command::RollCall { group, status, time_limit, reply } => {
                // Without an answer the caller reports its own state.
                if let Ok(gather) = self.groups[group].gather(Channel::Calls, &[status]) {
                    self.rolls.push(Roll { gather, until: Instant::now() + time_limit, reply });
                }
            }
        }
    }

    fn answer_rolls(&mut self) {
        self.rolls.retain_mut(|roll| {
            let complete = roll.gather.test().unwrap_or(true);
            if !complete && Instant::now() < roll.until {
                return true;
            }
            let _ = roll.reply.send(roll.gather.heard().into_iter().map(|words| words.map(|w| w[0])).collect());
            false
        });
    }

    /// Runs the first operation if its gate is open; returns its ticket then.
    fn advance(&mut self) -> Result<Option<Ticket>> {
        let Some(Queued { ticket, gate }) = self.queue.front_mut() else { return Ok(None) };
        if !gate.test()? {
            let stalled = self.shared.journal().stalled_since(ticket.started).elapsed();
            return if stalled > self.shared.timeout { Err(late(gate, stalled)) } else { Ok(None) };
        }
        let headers: Vec<Header> =
            gate.heard().iter().filter_map(|words| Header::decode(words.as_deref().unwrap_or_default())).collect();
        let group = Rc::clone(&gate.group);
        if headers.len() != group.place.world {
            return Err(Error::peer("the ranks run different versions of this program"));
        }
        if let Some(error) = disagreement(&headers, &group.members, ticket.sequence, &ticket.job.what) {
            return Err(error);
        }
        match ticket.job.header.action {
            Action::Split => self.groups.push(Rc::new(split(&group, self.groups.len(), &mut ticket.job)?)),
            _ => group.perform(&ticket.job)?,
        }
        Ok(self.queue.pop_front().map(|done| done.ticket))
    }

    /// Fails all current and future operations.
    fn give_up(&mut self, error: Error) {
        self.shared.journal().dump();
        let later = match self.queue.pop_front() {
            Some(Queued { ticket, .. }) => {
                ticket.outcome.set(Err(error.clone()));
                error.context(format!("given up, after {}, collective {}, failed", ticket.job, ticket.sequence))
            }
            None => error,
        };
        for Queued { ticket, .. } in self.queue.drain(..) {
            ticket.outcome.set(Err(later.clone()));
        }
        self.broken = Some(later);
    }
}

/// Numbers of a [`Action::Split`]'s buffer: color and key before, the new group's number and place after.
pub const SPLIT_NUMBERS: usize = 6;

/// Divides a group; writes the number of the new one, `number`, and this rank's place in it to the job's buffer.
fn split(group: &Group, number: usize, job: &mut Job) -> Result<Group> {
    let numbers = integers(&job.buffer);
    let made = group.split(numbers[0] as usize, numbers[1] as usize)?;
    let Place { rank, world, local_rank, local_world } = made.place;
    let numbers = [number, rank, world, local_rank, local_world, made.host_leader].map(|n| n as i64);
    job.buffer.f_copy_(&Tensor::from_slice(&numbers))?;
    Ok(made)
}

/// Returns the error of a gate that not all ranks have reached.
fn late(gate: &Gather, stalled: Duration) -> Error {
    let heard = gate.heard();
    let members = gate.group.members.iter().zip(&heard);
    let silent: Vec<usize> = members.filter(|(_, words)| words.is_none()).map(|(&rank, _)| rank).collect();
    Error::peer(format!(
        "timed out after {:.1} s: no message from {} (busy elsewhere, stopped or dead){}",
        stalled.as_secs_f64(),
        name_ranks(&silent),
        crate::comm::silent_hosts()
    ))
}
