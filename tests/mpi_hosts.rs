//! Several hosts: network namespaces with addresses of their own on this machine (`tests/hosts/hosts.sh`). Root is
//! needed for them.

mod common;

use common::process::{Running, checkpoints, command, mpi_is_here, mpirun, names, program, run, start, trainer};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::train;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Hosts h1, h2, ... that are removed when dropped.
struct Hosts {
    name: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/hosts.sh")
}

impl Hosts {
    /// `None`, and a message, where this machine does not let us make hosts.
    fn new(name: &str, n: usize) -> Option<Hosts> {
        if !mpi_is_here() {
            return None;
        }
        let check = Command::new(script()).arg("check").output().unwrap();
        if !check.status.success() {
            println!("SKIPPED: {}", String::from_utf8_lossy(&check.stderr).trim());
            return None;
        }
        let hosts = Hosts { name: format!("t{}{name}", std::process::id()) };
        hosts.tell("up", &n.to_string());
        Some(hosts)
    }

    fn tell(&self, what: &str, more: &str) {
        let output = Command::new(script()).args([what, &self.name, more]).output().unwrap();
        assert!(output.status.success(), "{what} {more}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `trainer launch OPTIONS` on the first host, for a run into `out`.
    fn launch(&self, bench: &Bench, options: &[&str], out: &str, settings: &[&str]) -> Command {
        let mut command = command(script().to_str().unwrap(), bench);
        command.args(["on", &self.name, "h1", program(), "launch"]).args(options).args(bench.settings(out, settings));
        self.environment(&mut command);
        command
    }

    /// By what mpirun reaches these hosts.
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("OMPI_MCA_plm_rsh_agent", script()).env("HOSTS_SET", &self.name).env_remove("SLURM_JOB_ID")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let ended = Command::new(script()).args(["down", &self.name]).output();
        assert!(ended.is_ok_and(|ended| ended.status.success()) || std::thread::panicking(), "hosts are left");
    }
}

fn bench() -> Bench {
    Bench::new("bert-classification")
}

#[test]
fn training_across_hosts_takes_the_steps_of_one_host() {
    let Some(hosts) = Hosts::new("a", 3) else { return };
    let bench = bench();
    let no_dropout = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
    run(mpirun(3, &bench).args(train(&bench, "one", &no_dropout))).expect(0);
    std::fs::write(bench.path("hosts"), "h1 slots=1\nh2:1 # the second\nh3:2\n").unwrap();
    for (out, options) in [("two", ["--hosts", "h1:1,h2:2"]), ("three", ["--hostfile", "hosts"])] {
        let options = [&options[..], &["-n", "3"]].concat();
        let ended = run(&mut hosts.launch(&bench, &options, out, &no_dropout)).expect(0);
        assert!(ended.stderr.contains("ranks     3 (mpi"), "{}", ended.text());
        assert_equivalent(&bench.steps(out), &bench.steps("one"), out);
    }
}

/// Two hosts of two ranks: the steps of ZeRO 3 over all ranks, before and after a resume; the bytes between hosts are
/// those of the plan, of which weights have no part.
#[test]
fn shards_stay_on_their_host() {
    let Some(hosts) = Hosts::new("e", 2) else { return };
    let bench = bench();
    let more = [
        "hidden_dropout_prob=0",
        "attention_probs_dropout_prob=0",
        "classifier_dropout=0",
        "parallel.zero_stage=3",
        "max_steps=8",
        "save_steps=4",
        "micro_batch_tokens=30",
    ];
    let within = [&more[..], &["parallel.shard_within=host"]].concat();
    let two = ["--hosts", "h1:2,h2:2"];
    run(&mut hosts.launch(&bench, &two, "all", &more)).expect(0);
    let ended = run(&mut hosts.launch(&bench, &two, "host", &within)).expect(0);
    assert!(ended.stderr.contains("within each host of 2 ranks"), "{}", ended.text());
    assert_equivalent(&bench.steps("host"), &bench.steps("all"), "within hosts");
    let mut resumed = hosts.launch(&bench, &two, "resumed", &within);
    run(resumed.arg("--resume").arg(bench.path("all/checkpoint-4"))).expect(0);
    assert_equivalent(&bench.steps("resumed"), &bench.steps("all"), "resumed within hosts");

    let sent = |out: &str| bench.summary(out)["inter_host_bytes_per_step"].as_f64().unwrap();
    let planned = |settings: &[&str]| {
        let mut command = trainer(&bench);
        command.args(["plan", "--json", "--ranks", "4", "--ranks-per-node", "2"]);
        let told = run(command.args(bench.settings("none", settings))).expect(0).stdout;
        let plan: serde_json::Value = serde_json::from_str(&told).unwrap();
        let worlds = plan["time"]["worlds"].as_array().unwrap();
        worlds.iter().find(|row| row["ranks"] == 4).unwrap()["inter_host_bytes"].as_f64().unwrap()
    };
    for (out, settings) in [("all", &more[..]), ("host", &within)] {
        // The plan counts 64 bytes for each of the two small all-reduces.
        let (sent, planned) = (sent(out), planned(settings));
        assert!((sent - planned).abs() < 128.0, "{out}: {sent} bytes, planned {planned}");
    }
    assert!(sent("host") < sent("all") / 2.0, "{} and {}", sent("host"), sent("all"));

    let mut unequal = hosts.launch(&bench, &["--hosts", "h1:2,h2:1", "--max-restarts", "0"], "unequal", &within);
    let ended = run(&mut unequal).expect(2);
    assert!(ended.text().contains("hosts have from 1 to 2: start as many on each"), "{}", ended.text());
}

/// Each host has a home folder of its own here: each makes its own token cache, whose files are then alike.
#[test]
fn every_host_has_its_token_cache() {
    let Some(hosts) = Hosts::new("c", 2) else { return };
    let bench = bench();
    let default: Vec<String> =
        bench.settings("run", &[]).into_iter().filter(|setting| !setting.starts_with("data.cache_dir")).collect();
    let mut command = command(script().to_str().unwrap(), &bench);
    command.args(["on", &hosts.name, "h1", program(), "launch", "--hosts", "h1:1,h2:2"]).args(default);
    hosts.environment(&mut command).env_remove("XDG_CACHE_HOME").env("HOSTS_HOME", bench.path("home"));
    run(&mut command).expect(0);
    let [one, two] = ["h1", "h2"].map(|host| names(&bench.path(&format!("home/{host}/.cache/trainer/tokens"))));
    assert_eq!((one.len(), &one), (2, &two), "the training and the evaluation data on each host");
    assert!(one.iter().all(|name| name.ends_with(".tok")), "{one:?}");
}

/// mpirun's own message is long and may not say which host it could not reach.
#[test]
fn a_host_that_cannot_be_reached_is_named() {
    let Some(hosts) = Hosts::new("d", 2) else { return };
    let bench = bench();
    let options = ["--hosts", "h1:1,h2:1,h9:1", "--max-restarts", "0"];
    let ended = run(&mut hosts.launch(&bench, &options, "run", &[]));
    assert!(!ended.status.success(), "{}", ended.text());
    let last = ended.stderr.trim_end().lines().last().unwrap();
    assert!(last.contains(": h9 cannot be reached (") && !last.contains("h2 cannot"), "{}", ended.text());
}

/// A host whose link goes down in the middle of a step: a verdict that names it, within the timeout; and when the link is
/// up again the job goes on by itself, with the losses of one that was not cut.
#[test]
fn a_host_that_is_cut_off_is_named_and_the_job_goes_on() {
    let Some(hosts) = Hosts::new("b", 2) else { return };
    let bench = bench();
    let whole = ["max_steps=600", "save_steps=20", "save_total_limit=3"];
    let settings = [&whole[..], &["comm.timeout_seconds=15"]].concat();
    let two = ["--hosts", "h1:1,h2:1"];
    let cut = |running: &mut Running| {
        running.until_step(&bench.path("run"), 45);
        hosts.tell("cut", "h2");
        running.until("the verdict", |text| text.contains("no acknowledgement from 10.77.0.2"));
        let verdict = running.text();
        assert!(verdict.contains("trainer: rank 0: error: rank 0: "), "{verdict}");
    };

    // No restart: the job's own exit code, and the host by its name.
    let mut running =
        start(&mut hosts.launch(&bench, &[&two[..], &["--max-restarts", "0"]].concat(), "run", &settings));
    cut(&mut running);
    let ended = running.wait().expect(5);
    let last = ended.stderr.trim_end().lines().last().unwrap();
    assert!(last.starts_with("trainer: launch: exit 5: rank 0: error: "), "{}", ended.text());
    assert!(last.ends_with("(10.77.0.2 is h2, rank 1)"), "{}", ended.text());
    assert!(ended.stderr.contains("rank 0 (h1) | "), "{}", ended.text());
    hosts.tell("heal", "h2");

    // The same command again goes on; cut again, it does so by itself.
    let before = *checkpoints(&bench.path("run")).last().unwrap();
    let mut running = start(&mut hosts.launch(&bench, &two, "run", &settings));
    running.until("the start", |text| text.contains("resumed   from"));
    let reached = common::process::steps_logged(&bench.path("run"));
    assert!(reached as u64 >= before);
    running.until_step(&bench.path("run"), reached + 45);
    cut(&mut running);
    running.until("the restart", |text| text.contains("launch: restart 1 of 3"));
    hosts.tell("heal", "h2");
    let ended = running.wait().expect(0);
    assert!(ended.stderr.contains("launch: exit 5: "), "{}", ended.text());

    run(mpirun(2, &bench).args(train(&bench, "whole", &whole))).expect(0);
    assert_equivalent(&bench.steps("run"), &bench.steps("whole"), "cut twice");
}
