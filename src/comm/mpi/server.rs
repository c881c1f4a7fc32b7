//! The MPI thread: takes commands, opens gates, does the work, and notices when nothing moves.

use super::shared::{Outcome, Shared};
use crate::comm::ffi::mpi::{Channel, Gather, World};
use crate::comm::job::{Action, Header, Job, disagreement, name_ranks};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

/// For so long a waiting thread is worth a spinning one.
const HOT: Duration = Duration::from_millis(2);
/// Between polls while the rank computes, at least: short against an operation, long against the cost of a poll (13 us).
const NAP: Duration = Duration::from_micros(150);
/// The same while a thread waits, after [`HOT`].
const SHORT_NAP: Duration = Duration::from_micros(50);
/// Naps grow with the quiet so far, to this: the delay stays a small part of the wait, and the cost next to nothing.
const LONG_NAP: Duration = Duration::from_millis(1);
const NAPS_IN_QUIET: u32 = 64;
/// Between polls while nothing is under way: MPI may have to forward something for others.
const IDLE: Duration = Duration::from_millis(5);

/// What other threads ask of the MPI thread.
pub enum Command {
    Start(Ticket),
    /// Somebody waits now: poll without sleeping.
    Hurry,
    RollCall {
        status: i64,
        patience: Duration,
        reply: Sender<Vec<Option<i64>>>,
    },
    Abort(i32),
}

/// One operation, and where its outcome goes.
pub struct Ticket {
    pub sequence: u64,
    pub job: Job,
    pub started: Instant,
    pub outcome: Arc<Outcome>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nothing if there is an outcome.
        self.outcome.set(Err(Error::peer("the MPI thread has ended")));
    }
}

/// An operation whose gate is not open yet.
struct Queued<'a> {
    ticket: Ticket,
    gate: Gather<'a>,
}

/// A roll call under way.
struct Roll<'a> {
    gather: Gather<'a>,
    until: Instant,
    reply: Sender<Vec<Option<i64>>>,
}

/// Serves until the group is finished or nobody can send commands any more.
pub fn serve(world: World, inbox: &Receiver<Command>, shared: &Shared) {
    let last = {
        let server = Server { world: &world, shared, queue: VecDeque::new(), rolls: Vec::new(), broken: None };
        server.run(inbox)
    };
    let Some(last) = last else { return };
    let result = world.close();
    shared.journal().finish(last.sequence);
    last.outcome.set(result);
}

struct Server<'a> {
    world: &'a World,
    shared: &'a Shared,
    queue: VecDeque<Queued<'a>>,
    rolls: Vec<Roll<'a>>,
    /// Why no operation can work any more: after one has failed the ranks are no longer in step.
    broken: Option<Error>,
}

impl Server<'_> {
    /// Returns the ticket of the last operation when all ranks have come to it.
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
                    // The buffers are free before their owner learns so and asks for new ones.
                    done.job = Job::finish();
                    done.outcome.set(Ok(()));
                    quiet_since = Instant::now();
                }
                Err(error) => self.give_up(error),
            }
        }
    }

    /// The next command, if one comes within the pause that the situation asks for; an error when none can come.
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
                    self.world.progress();
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
                    None => self.world.gather(Channel::Gates, &ticket.job.header.encode()),
                };
                match gate {
                    Ok(gate) => self.queue.push_back(Queued { ticket, gate }),
                    Err(error) => ticket.outcome.set(Err(error)),
                }
            }
            Command::RollCall { status, patience, reply } => {
                // Without an answer the caller reports what it knows.
                if let Ok(gather) = self.world.gather(Channel::Calls, &[status]) {
                    self.rolls.push(Roll { gather, until: Instant::now() + patience, reply });
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

    /// Does the first operation if its gate is open; returns its ticket then.
    fn advance(&mut self) -> Result<Option<Ticket>> {
        let Some(Queued { ticket, gate }) = self.queue.front_mut() else { return Ok(None) };
        if !gate.test()? {
            let stalled = self.shared.journal().stalled_since(ticket.started).elapsed();
            return if stalled > self.shared.timeout { Err(late(gate, stalled)) } else { Ok(None) };
        }
        let headers: Vec<Header> =
            gate.heard().iter().filter_map(|words| Header::decode(words.as_deref().unwrap_or_default())).collect();
        if headers.len() != self.world.size {
            return Err(Error::peer("the ranks run different versions of this program"));
        }
        if let Some(error) = disagreement(&headers, ticket.sequence, &ticket.job.what) {
            return Err(error);
        }
        self.world.perform(&ticket.job)?;
        Ok(self.queue.pop_front().map(|done| done.ticket))
    }

    /// Fails everything under way and to come.
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

/// The error of a gate that not all ranks have come to.
fn late(gate: &Gather, stalled: Duration) -> Error {
    let silent: Vec<usize> =
        gate.heard().iter().enumerate().filter(|(_, words)| words.is_none()).map(|(rank, _)| rank).collect();
    Error::peer(format!(
        "timed out after {:.1} s: nothing heard from {} (busy elsewhere, stopped or dead){}",
        stalled.as_secs_f64(),
        name_ranks(&silent),
        crate::comm::silent_hosts()
    ))
}
