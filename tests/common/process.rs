//! The built program as a process, alone or under `mpirun`. No wait is without a limit.

use super::runs::Bench;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

/// For whatever a test waits for: far more than a busy machine needs.
pub const LIMIT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(5);

/// The program under test: the one that cargo built, or `TRAINER_TEST_PROGRAM` on a machine that has a bundle.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> =
        LazyLock::new(|| env::var("TRAINER_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_trainer").to_owned()));
    &PROGRAM
}

/// `trainer`, alone.
pub fn trainer(bench: &Bench) -> Command {
    command(program(), bench)
}

/// `mpirun -n world trainer`.
pub fn mpirun(world: usize, bench: &Bench) -> Command {
    let mut command = command("mpirun", bench);
    command.args(["-n", &world.to_string(), "--oversubscribe", program()]);
    command
}

/// Whether there is an `mpirun`; says so if not.
pub fn mpi_is_here() -> bool {
    let here = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    if !here {
        println!("SKIPPED: mpirun is not installed (Debian: openmpi-bin)");
    }
    here
}

/// A program in the bench's folder, with a token cache of its own and one thread.
pub fn command(name: &str, bench: &Bench) -> Command {
    let mut command = Command::new(name);
    command
        .current_dir(bench.dir.path())
        .env("XDG_CACHE_HOME", bench.path("cache-home"))
        .env("OMP_NUM_THREADS", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env_remove("TRAINER_LOG");
    command
}

/// A process that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// All that it said.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Asserts the exit code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}: {}", self.status, self.text());
        self
    }
}

/// A process at work; it is ended when dropped.
pub struct Running {
    child: Child,
    /// Standard output and standard error so far.
    said: [Arc<Mutex<String>>; 2],
    readers: Vec<thread::JoinHandle<()>>,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    start(command).wait()
}

/// Starts a command.
pub fn start(command: &mut Command) -> Running {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    let said = [Arc::default(), Arc::default()];
    let readers = vec![
        reader(child.stdout.take().unwrap(), Arc::clone(&said[0])),
        reader(child.stderr.take().unwrap(), Arc::clone(&said[1])),
    ];
    Running { child, said, readers }
}

/// The header's lines whole: on the screen they are broken at 80 columns.
fn unwrapped(text: &str) -> String {
    text.replace("\n          ", " ")
}

fn reader(mut from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        // What is read ends inside a character at worst, and then only a message looks odd.
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            to.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    })
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// All that it has said so far.
    pub fn text(&self) -> String {
        let said = self.said.each_ref().map(|text| text.lock().unwrap_or_else(PoisonError::into_inner).clone());
        unwrapped(&said.join("\n"))
    }

    /// Waits until `holds`; of a process that has ended, it may hold for all that it has said and done.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&str) -> bool) {
        let since = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap();
            if let Some(status) = ended {
                self.read_to_the_end(status);
            }
            if holds(&self.text()) {
                return;
            }
            if let Some(status) = ended {
                panic!("{what}: the process ended before ({status}): {}", self.text());
            }
            assert!(since.elapsed() < LIMIT, "{what}: not within {LIMIT:?}: {}", self.text());
            thread::sleep(POLL);
        }
    }

    /// Waits for the rest of what a process that has ended said.
    fn read_to_the_end(&self, status: ExitStatus) {
        let since = Instant::now();
        while !self.readers.iter().all(thread::JoinHandle::is_finished) {
            assert!(since.elapsed() < LIMIT, "a child outlived it ({status}): {}", self.text());
            thread::sleep(POLL);
        }
    }

    /// Waits until a run folder's metrics tell of a step.
    pub fn until_step(&mut self, run: &Path, step: usize) {
        self.until(&format!("step {step}"), |_| steps_logged(run) >= step);
    }

    /// Waits for the end; at the limit the process is ended and the test fails with what it said.
    pub fn wait(mut self) -> Ended {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < LIMIT, "still running after {LIMIT:?}: {}", self.text());
            thread::sleep(POLL);
        };
        self.read_to_the_end(status);
        let [stdout, stderr] = self.said.each_ref().map(|text| text.lock().unwrap().clone());
        let stderr = unwrapped(&stderr);
        Ended { status, stdout, stderr }
    }

    /// The process ids of the ranks that this `mpirun` started, in the order of ranks.
    pub fn ranks(&self) -> Vec<i32> {
        let mut ranks: Vec<(usize, i32)> = processes()
            .into_iter()
            .filter(|&pid| is_program(pid) && ancestors(pid).contains(&self.pid()))
            .filter_map(|pid| Some((rank_of(pid)?, pid)))
            .collect();
        ranks.sort_unstable();
        ranks.into_iter().map(|(_, pid)| pid).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // mpirun ends its ranks then.
            self.signal(libc::SIGTERM);
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(5) && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(POLL);
            }
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}

/// The numbers that follow `before` in a text: 3.2 after "timed out after " in "timed out after 3.2 s".
pub fn numbers_after(text: &str, before: &str) -> Vec<f64> {
    let number = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').parse::<f64>().ok()
    };
    text.split(before).skip(1).filter_map(number).collect()
}

/// Asserts that a text tells of a timeout of so many seconds: of no less, and not of a minute.
pub fn assert_timed_out(text: &str, before: &str, seconds: f64) {
    let told = numbers_after(text, before);
    assert!(told.iter().any(|told| (seconds..60.0).contains(told)), "{before:?} {seconds} s: {told:?}: {text}");
}

/// Sends a signal to one process.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: kill has no memory to get wrong; the process is one that this test started.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}

/// Whether a process still runs; one that has ended and that nobody has waited for does not.
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The number of training steps in a run folder's metrics, 0 while there are none.
pub fn steps_logged(run: &Path) -> usize {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains("\"loss\"")).count()
}

/// The steps of a run folder's complete checkpoints, in ascending order.
pub fn checkpoints(run: &Path) -> Vec<u64> {
    let mut steps: Vec<u64> = names(run)
        .iter()
        .filter(|name| run.join(name).join("COMPLETE").exists())
        .filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

/// The names in a folder, sorted; none where there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn processes() -> Vec<i32> {
    names(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).collect()
}

fn is_program(pid: i32) -> bool {
    let canonical = |path: PathBuf| fs::canonicalize(path).ok();
    let exe = canonical(format!("/proc/{pid}/exe").into());
    exe.is_some() && exe == canonical(program().into())
}

fn ancestors(pid: i32) -> Vec<i32> {
    std::iter::successors(stat(pid), |&(_, parent)| stat(parent)).map(|(_, parent)| parent).collect()
}

/// The processes of the program that have all these variables: `NAME=VALUE`.
pub fn programs_with(variables: &[&str]) -> Vec<i32> {
    let has = |pid: i32| {
        let own = variables_of(pid);
        variables.iter().all(|variable| own.iter().any(|entry| entry == variable))
    };
    processes().into_iter().filter(|&pid| is_program(pid) && has(pid)).collect()
}

fn rank_of(pid: i32) -> Option<usize> {
    let variables = variables_of(pid);
    variables.iter().find_map(|entry| entry.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse().ok())
}

fn variables_of(pid: i32) -> Vec<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

/// The state of a process and its parent: the fields after the name in proc(5)'s `stat`.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
