//! One start of a job: runs mpirun as a child process until it ends.

use super::output::JobOutput;
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
/// Time limit for mpirun to end the job after a rank has reported an error: Open MPI needs two seconds, and waits
/// forever for an unreachable host.
const EXIT_TIME_LIMIT: Duration = Duration::from_secs(10);
/// Time limit after SIGTERM, before SIGKILL.
const TERM_TIME_LIMIT: Duration = Duration::from_secs(5);
/// Time limit for the remaining output after mpirun has ended: a remote shell may outlive it and keep the pipe open.
const OUTPUT_TIME_LIMIT: Duration = Duration::from_secs(2);

/// Signals to this process: the first requests a checkpoint and the end of the job, a Ctrl-C after it ends the job
/// immediately.
pub struct Requests {
    stop: StopFlag,
    at_once: StopFlag,
    _runtime: Runtime,
}

impl Requests {
    /// Starts to handle signals.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn listen() -> Result<Requests> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut kinds = [signals::ALONE, signals::ALWAYS].concat();
        if !signals::ignored(signals::HANG_UP) {
            kinds.push(signals::HANG_UP);
        }
        let (stop, at_once) = (StopFlag::new(), StopFlag::new());
        let again = at_once.clone();
        signals::listen(runtime.handle(), &kinds, &stop, |_| (), move || _ = again.raise())?;
        Ok(Requests { stop, at_once, _runtime: runtime })
    }

    /// Whether a stop was requested.
    pub fn stop(&self) -> bool {
        self.stop.raised()
    }

    /// Whether a stop without a checkpoint was requested.
    pub(super) fn at_once(&self) -> bool {
        self.at_once.raised()
    }

    /// Sleeps unless a stop is requested; returns whether it is.
    pub fn sleep(&self, time: Duration) -> bool {
        let since = Instant::now();
        while since.elapsed() < time && !self.stop() {
            thread::sleep(POLL);
        }
        self.stop()
    }
}

/// Result of a start.
pub struct Ended {
    /// Exit code, as in `docs/configuration.md`.
    pub code: i32,
    pub output: JobOutput,
}

/// Runs the command until it ends and forwards its output. A signal to this process becomes SIGUSR1 to mpirun, which
/// forwards it to all ranks.
///
/// # Errors
/// If mpirun cannot be started or awaited.
pub fn run(words: &[String], requests: &Requests, grace: Duration) -> Result<Ended> {
    let (program, arguments) = words.split_first().ok_or_else(|| Error::other("an empty command"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C goes to the foreground process group, which is ours; it would make mpirun kill the ranks.
        .process_group(0)
        .spawn()
        .context(program)?;
    let output = Arc::new(Mutex::new(JobOutput::default()));
    let readers = [
        child.stdout.take().map(|from| pass_on(from, std::io::stdout(), &output)),
        child.stderr.take().map(|from| pass_on(from, std::io::stderr(), &output)),
    ];
    let mut job = Running { child, output: &output, requested: None, asked: false, ending: None };
    let status = loop {
        if let Some(status) = job.child.try_wait().context("waiting for mpirun")? {
            break status;
        }
        job.look_after(requests, grace);
        thread::sleep(POLL);
    };
    let since = Instant::now();
    while readers.iter().flatten().any(|reader| !reader.is_finished()) && since.elapsed() < OUTPUT_TIME_LIMIT {
        thread::sleep(POLL);
    }
    let by_us = job.ending.is_some();
    let mut output = std::mem::take(&mut *lock(&output));
    if let Some(rest) = output.rest() {
        logs::tell(&rest);
    }
    let own = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let code = match output.code {
        _ if by_us && requests.at_once() => 130,
        Some(message) if by_us || status.code().is_none() => message,
        // It was ended by us, whatever its exit status.
        _ if by_us => own.max(1),
        _ => own,
    };
    Ok(Ended { code, output })
}

struct Running<'a> {
    child: Child,
    output: &'a Mutex<JobOutput>,
    /// Time of the stop request.
    requested: Option<Instant>,
    /// Whether a checkpoint was requested from the ranks.
    asked: bool,
    /// Time when we started to end mpirun, and whether we sent SIGKILL.
    ending: Option<(Instant, bool)>,
}

impl Running<'_> {
    fn look_after(&mut self, requests: &Requests, grace: Duration) {
        if let Some((since, killed)) = self.ending {
            if since.elapsed() > TERM_TIME_LIMIT && !killed {
                self.ending = Some((since, true));
                self.signal(Signal::KILL);
            }
            return;
        }
        if requests.stop() && self.requested.is_none() {
            self.requested = Some(Instant::now());
            if !lock(self.output).listening {
                logs::tell("launch: stopping the job once its ranks are connected; Ctrl-C again ends them at once");
            }
        }
        // A rank without a signal handler would be killed by the signal.
        if self.requested.is_some() && !self.asked && lock(self.output).listening {
            self.asked = true;
            logs::tell("launch: requesting a checkpoint from the ranks; Ctrl-C again ends them at once");
            self.signal(Signal::USR1);
        }
        let leaving = lock(self.output).ending;
        if requests.at_once() {
            logs::tell("launch: ending the ranks without a checkpoint");
        } else if self.requested.is_some_and(|since| since.elapsed() > grace) {
            let seconds = grace.as_secs_f64();
            logs::tell(&format!("launch: --grace of {seconds} s is over: ending the ranks without a checkpoint"));
        } else if leaving.is_some_and(|since| since.elapsed() > EXIT_TIME_LIMIT) {
            logs::tell("launch: mpirun does not end (is a host unreachable?): killing it");
        } else {
            return;
        }
        self.ending = Some((Instant::now(), false));
        self.signal(Signal::TERM);
    }

    /// Sends a signal to mpirun; SIGKILL also to its children in its process group.
    fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) else { return };
        let sent = if signal == Signal::KILL { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        // It may just have ended; we have not awaited it, so its process id is not reused.
        if let Err(e) = sent {
            tracing::warn!("{signal:?} to mpirun: {e}");
        }
    }
}

fn lock(output: &Mutex<JobOutput>) -> MutexGuard<'_, JobOutput> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forwards lines as they arrive, and records them.
fn pass_on(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    output: &Arc<Mutex<JobOutput>>,
) -> JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let (mut from, mut bytes) = (BufReader::new(from), Vec::new());
        while from.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes);
            let message = lock(&output).process_line(line.strip_suffix('\n').unwrap_or(&line));
            // Ignore a closed pipe.
            _ = message.map(|text| to.write_all(format!("{text}\n").as_bytes()).and_then(|()| to.flush()));
            bytes.clear();
        }
    })
}
