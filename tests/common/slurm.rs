//! A real Slurm on this machine (`tests/slurm/cluster.sh`), and jobs in it.

use super::process::{Ended, LIMIT, command, program, run};
use super::runs::Bench;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);

/// Two nodes of two CPUs; taken down when dropped.
pub struct Cluster {
    pub bench: Bench,
    folder: PathBuf,
}

impl Cluster {
    /// Starts one, with a bench for its runs. `None`, and a message, where Slurm cannot run.
    pub fn up(model: &str) -> Option<Cluster> {
        let bench = Bench::new(model);
        let checked = run(script(&bench).arg("check"));
        if checked.status.code() == Some(3) {
            println!("SKIPPED: no Slurm here: {}", checked.stderr.trim());
            return None;
        }
        checked.expect(0);
        let cluster = Cluster { folder: bench.path("slurm"), bench };
        run(script(&cluster.bench).arg("up").arg(&cluster.folder)).expect(0);
        Some(cluster)
    }

    /// One of Slurm's commands, or the program, as a user of this cluster.
    pub fn command(&self, name: &str) -> Command {
        let mut command = command(name, &self.bench);
        command.env("SLURM_CONF", self.folder.join("slurm.conf"));
        command
    }

    /// Runs one of Slurm's commands.
    pub fn slurm(&self, name: &str, arguments: &[&str]) -> Ended {
        run(self.command(name).args(arguments)).expect(0)
    }

    /// `trainer launch --slurm` with options for Slurm, and what is to be trained.
    pub fn launch(&self, options: &[&str], train: &[String]) -> Command {
        let mut launch = self.command(program());
        launch.args(["launch", "--slurm"]).args(options).args(train);
        launch
    }

    /// Submits a job that way.
    pub fn submit(&self, options: &[&str], train: &[String]) -> Job<'_> {
        let submitted = run(&mut self.launch(options, train)).expect(0);
        let number = submitted.stdout.strip_prefix("Submitted batch job ").and_then(|rest| rest.strip_suffix('\n'));
        let number = number.filter(|number| number.parse::<u32>().is_ok());
        let number = number.unwrap_or_else(|| panic!("not what sbatch says: {}", submitted.text())).to_owned();
        Job { cluster: self, number }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        _ = script(&self.bench).arg("down").arg(&self.folder).status();
    }
}

fn script(bench: &Bench) -> Command {
    command(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/cluster.sh"), bench)
}

/// A job that was submitted.
pub struct Job<'a> {
    cluster: &'a Cluster,
    pub number: String,
}

impl Job<'_> {
    /// All that it has written to its log.
    pub fn log(&self) -> String {
        let log = self.cluster.bench.path(&format!("slurm-{}.out", self.number));
        fs::read_to_string(log).unwrap_or_default()
    }

    /// What Slurm knows of it under a name: `JobState`, `ExitCode`, `Restarts`.
    pub fn fact(&self, name: &str) -> String {
        let shown = self.cluster.slurm("scontrol", &["show", "job", &self.number]).stdout;
        let fact = shown.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        fact.unwrap_or_else(|| panic!("no {name}: {shown}")).to_owned()
    }

    /// `scancel` with options.
    pub fn signal(&self, options: &[&str]) {
        self.cluster.slurm("scancel", &[options, &[&self.number]].concat());
    }

    /// Waits until `holds`.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(since.elapsed() < LIMIT, "{what}: {}: {}", self.fact("JobState"), self.log());
            thread::sleep(POLL);
        }
    }

    /// Waits until it has come to `state` with this exit code, after so many requeues; returns its log.
    pub fn expect(&self, state: &str, code: i32, restarts: u32) -> String {
        let ended = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"];
        self.until(state, |job| ended.contains(&job.fact("JobState").as_str()));
        let found = ["JobState", "ExitCode", "Restarts"].map(|name| self.fact(name));
        assert_eq!(found, [state.into(), format!("{code}:0"), restarts.to_string()], "{}", self.log());
        self.log()
    }
}
