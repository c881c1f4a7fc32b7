//! One start of a job: mpirun as a child, from its start to its end.

use super::output::Heard;
use crate::error::{Context, Error, Result};
use crate::observe::logs;
use crate::observe::signals::{self, StopFlag};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const POLL: Duration = Duration::from_millis(20);
/// How long mpirun may take to end the job after a rank has said that it leaves with an error: Open MPI takes two seconds.
/// It waits for ever for a host that was cut off.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(10);
/// How long mpirun may take after SIGTERM, before SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_secs(5);
/// How long the rest of the output may take after mpirun has ended: a remote shell may outlive it and hold the pipe.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// What signals ask of this process while it launches: the first a checkpoint and the end of the job, a Ctrl-C after it
/// the end at once.
pub struct Wishes {
    stop: StopFlag,
    at_once: StopFlag,
    _runtime: Runtime,
}

impl Wishes {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> Result<Wishes> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut kinds = [signals::ALONE, signals::ALWAYS].concat();
        if !signals::ignored(signals::HANG_UP) {
            kinds.push(signals::HANG_UP);
        }
        let (stop, at_once) = (StopFlag::new(), StopFlag::new());
        let again = at_once.clone();
        signals::listen(runtime.handle(), &kinds, &stop, |_| (), move || _ = again.raise())?;
        Ok(Wishes { stop, at_once, _runtime: runtime })
    }

    /// Whether the job is to end.
    pub fn stop(&self) -> bool {
        self.stop.raised()
    }

    /// Whether it is to end without a checkpoint.
    fn at_once(&self) -> bool {
        self.at_once.raised()
    }

    /// Sleeps, unless the job is to end; whether it is.
    pub fn sleep(&self, time: Duration) -> bool {
        let since = Instant::now();
        while since.elapsed() < time && !self.stop() {
            thread::sleep(POLL);
        }
        self.stop()
    }
}

/// How a start ended.
pub struct Ended {
    /// As `docs/configuration.md` has it.
    pub code: i32,
    pub heard: Heard,
}

/// Runs the command to its end. Its output is passed on; a signal to this process becomes SIGUSR1 to mpirun, which hands
/// it to all ranks.
///
/// # Errors
/// When mpirun cannot be started or waited for.
pub fn run(words: &[String], wishes: &Wishes, grace: Duration) -> Result<Ended> {
    let (program, arguments) = words.split_first().ok_or_else(|| Error::other("an empty command"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The terminal's Ctrl-C goes to the group in its foreground, which is ours: mpirun would kill the ranks.
        .process_group(0)
        .spawn()
        .context(program)?;
    let heard = Arc::new(Mutex::new(Heard::default()));
    let readers = [
        child.stdout.take().map(|from| pass_on(from, std::io::stdout(), &heard)),
        child.stderr.take().map(|from| pass_on(from, std::io::stderr(), &heard)),
    ];
    let mut job = Running { child, heard: &heard, wished: None, asked: false, ending: None };
    let status = loop {
        if let Some(status) = job.child.try_wait().context("waiting for mpirun")? {
            break status;
        }
        job.look_after(wishes, grace);
        thread::sleep(POLL);
    };
    let since = Instant::now();
    while readers.iter().flatten().any(|reader| !reader.is_finished()) && since.elapsed() < OUTPUT_PATIENCE {
        thread::sleep(POLL);
    }
    let by_us = job.ending.is_some();
    let mut heard = std::mem::take(&mut *lock(&heard));
    if let Some(rest) = heard.rest() {
        logs::tell(&rest);
    }
    let own = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let code = match heard.code {
        _ if by_us && wishes.at_once() => 130,
        Some(told) if by_us || status.code().is_none() => told,
        // It did not leave by itself, whatever it says.
        _ if by_us => own.max(1),
        _ => own,
    };
    Ok(Ended { code, heard })
}

struct Running<'a> {
    child: Child,
    heard: &'a Mutex<Heard>,
    /// When the job was to end.
    wished: Option<Instant>,
    /// Whether the ranks were asked for a checkpoint.
    asked: bool,
    /// When we began to end mpirun, and whether it has had SIGKILL.
    ending: Option<(Instant, bool)>,
}

impl Running<'_> {
    fn look_after(&mut self, wishes: &Wishes, grace: Duration) {
        if let Some((since, killed)) = self.ending {
            if since.elapsed() > TERM_PATIENCE && !killed {
                self.ending = Some((since, true));
                self.signal(Signal::KILL);
            }
            return;
        }
        if wishes.stop() && self.wished.is_none() {
            self.wished = Some(Instant::now());
            if !lock(self.heard).listening {
                logs::tell("launch: the job is to stop, once its ranks have met; Ctrl-C once more ends them at once");
            }
        }
        // A rank that does not listen yet would die of the signal.
        if self.wished.is_some() && !self.asked && lock(self.heard).listening {
            self.asked = true;
            logs::tell("launch: asking the ranks for a checkpoint; Ctrl-C once more ends them at once");
            self.signal(Signal::USR1);
        }
        let leaving = lock(self.heard).ending;
        if wishes.at_once() {
            logs::tell("launch: ending the ranks without a checkpoint");
        } else if self.wished.is_some_and(|since| since.elapsed() > grace) {
            let seconds = grace.as_secs_f64();
            logs::tell(&format!("launch: no end within {seconds} s (--grace): ending the ranks without a checkpoint"));
        } else if leaving.is_some_and(|since| since.elapsed() > FAREWELL_PATIENCE) {
            logs::tell("launch: mpirun does not come to an end (a host that it cannot reach?): ending it");
        } else {
            return;
        }
        self.ending = Some((Instant::now(), false));
        self.signal(Signal::TERM);
    }

    /// To mpirun; SIGKILL also to those of its children that stayed in its group.
    fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) else { return };
        let sent = if signal == Signal::KILL { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        // It may have ended in this moment; it is still ours to wait for, so nobody else has its number.
        if let Err(e) = sent {
            tracing::warn!("{signal:?} to mpirun: {e}");
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes lines on as they come, and remembers them.
fn pass_on(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    heard: &Arc<Mutex<Heard>>,
) -> JoinHandle<()> {
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        let (mut from, mut bytes) = (BufReader::new(from), Vec::new());
        while from.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes);
            let told = lock(&heard).hear(line.strip_suffix('\n').unwrap_or(&line));
            // A reader that has gone away must not end a run.
            _ = told.map(|text| to.write_all(format!("{text}\n").as_bytes()).and_then(|()| to.flush()));
            bytes.clear();
        }
    })
}
