//! What `trainer launch` would do, without doing it: the commands as golden files, and what is refused before anything
//! is started.
//!
//! `UPDATE_GOLDEN=1 cargo test --test launch` writes the golden files anew.

mod common;

use common::process::{Ended, program, run, trainer};
use common::runs::Bench;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use trainer::config::{Backend, Config};
use trainer::launch::hosts;
use trainer::launch::layout::{Allocation, Facts, Layout, Place};
use trainer::launch::mpirun::{self, Here};
use trainer::launch::{Job, Variable, quote};

const GPUS: Facts = Facts { gpus: 8, by_nvml: Vec::new(), nodes: 2, shares_gpus: false, cores: 96, root: false };
const CPU: Facts = Facts { gpus: 0, by_nvml: Vec::new(), nodes: 2, shares_gpus: false, cores: 16, root: false };

fn job() -> Job {
    let settings = vec!["output_dir=runs/x".to_owned(), "train.learning_rate=3e-5".to_owned()];
    let needed = ["model.path=m", "task.kind=masked-lm", "data.train=t.txt"].map(str::to_owned);
    Job {
        program: "/opt/trainer/bin/trainer".into(),
        log_format: "text".into(),
        config_file: Some("my configs/x.toml".into()),
        config: Config::load(None, &[&settings[..], &needed].concat()).unwrap(),
        settings,
        resume: "auto".into(),
        allow_new_data_order: false,
        ranks: None,
        threads: None,
        environment: Vec::new(),
        mpi_args: Vec::new(),
        max_restarts: 3,
        grace: Duration::from_secs(600),
    }
}

/// Asserts that a command is that of a golden file: a comment, then the command with each option on a line of its own.
fn golden(name: &str, job: &Job, place: &Place, facts: &Facts, variables: &[(&str, &str)]) {
    let layout = Layout::new(place, job.ranks, Backend::Auto, facts).unwrap();
    let variables: Vec<(String, String)> = variables.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
    let here = Here { variables, folder: "/home/ann/work".into(), listens: false };
    let words = mpirun::command(job, &layout, facts.root, &here);
    let command = quote(&words);
    assert_eq!(shell_words::split(&command).unwrap(), words, "a shell reads the words back");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/launch").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, command + "\n").unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(command, expected.trim_end(), "{name}");
}

#[test]
fn commands_are_those_of_the_golden_files() {
    let variables = [("HOME", "/home/ann"), ("NCCL_DEBUG", "INFO"), ("OMP_PROC_BIND", "false"), ("PATH", "/bin")];
    golden("gpus", &job(), &Place::Here, &GPUS, &variables);
    golden("gpus-chosen", &job(), &Place::Here, &GPUS, &[("CUDA_VISIBLE_DEVICES", "0,1")]);
    golden("cpu", &job(), &Place::Here, &CPU, &variables);
    let root = Facts { root: true, cores: 2, ..CPU };
    golden("cpu-root-crowded", &Job { ranks: Some(4), threads: Some(1), ..job() }, &Place::Here, &root, &variables);

    let all = Job {
        log_format: "json".into(),
        config_file: None,
        resume: "runs/x/checkpoint 5".into(),
        allow_new_data_order: true,
        ranks: Some(12),
        threads: Some(6),
        environment: vec![
            Variable { name: "NCCL_DEBUG".into(), value: Some("WARN 'all'".into()) },
            Variable { name: "HTTPS_PROXY".into(), value: None },
        ],
        mpi_args: vec!["--mca".into(), "btl_tcp_if_include".into(), "eth1".into()],
        ..job()
    };
    let hosts = Place::Hosts(hosts::parse("node1:8,node2:8").unwrap());
    golden("hosts", &job(), &hosts, &CPU, &variables);
    golden("hosts-everything", &all, &hosts, &CPU, &variables);

    let slurm = |tasks, gpus_per_node| Place::Allocation(Allocation { nodes: 4, tasks, gpus_per_node, on_node: true });
    golden("slurm-tasks", &job(), &slurm(Some(8), None), &CPU, &variables);
    golden("slurm-gpus", &job(), &slurm(None, Some(8)), &CPU, &variables);
}

/// `trainer launch` in the bench's folder.
fn launch(bench: &Bench, args: &[&str]) -> Command {
    let mut command = trainer(bench);
    command.arg("launch").args(args).env_remove("SLURM_JOB_ID");
    command
}

fn refused(bench: &Bench, args: &[&str]) -> Ended {
    run(launch(bench, args).args(bench.settings("run", &[]))).expect(2)
}

#[test]
fn a_dry_run_prints_the_command_and_does_nothing() {
    let bench = Bench::new("bert-classification");
    let ended = run(launch(&bench, &["--dry-run", "-n", "2"]).args(bench.settings("run", &[]))).expect(0);
    let words = shell_words::split(&ended.stdout).unwrap();
    assert_eq!(words[..3], ["mpirun", "-n", "2"]);
    let at = words.iter().position(|word| Path::new(word) == fs::canonicalize(program()).unwrap()).unwrap();
    assert_eq!(words[at + 1], "train");
    assert_eq!(words[at + 2..words.len() - 2], bench.settings("run", &[]));
    assert_eq!(words[words.len() - 2..], ["--resume", "auto"]);
    assert_eq!(ended.stderr, "");
    assert!(!bench.path("run").exists());
    let args = ["--dry-run", "-n", "2", "train"];
    let same = run(launch(&bench, &args).args(bench.settings("run", &[]))).expect(0);
    assert_eq!(same.stdout, ended.stdout, "the word that it adds by itself");
}

/// Told once, by this process, with nothing started: there is not even an mpirun.
#[test]
fn a_mistake_in_the_configuration_is_told_at_once() {
    let bench = Bench::new("bert-classification");
    let mut command = launch(&bench, &["-n", "2"]);
    command.args(bench.settings("run", &["learning_rat=1"])).env("PATH", bench.path("empty"));
    let ended = run(&mut command).expect(2);
    assert_eq!(
        ended.text().trim(),
        "trainer: error: command line: learning_rat: unknown key, did you mean train.learning_rate?"
    );
    assert!(!bench.path("run").exists());
}

#[test]
fn what_cannot_be_started_is_refused_with_the_remedy() {
    let bench = Bench::new("bert-classification");
    let path = |p: PathBuf| p.display().to_string();
    fs::write(bench.path("hosts"), "a slots=2\nb\n").unwrap();
    let file = path(bench.path("hosts"));
    for (args, told) in [
        (&["--hosts", "a:1,b"][..], "--hosts: found \"b\", expected a host and its number of ranks"),
        (&["--hostfile", &file], "hosts:2: found \"b\""),
        (&["--hosts", "a:1,b:1", "-n", "3"], "-n 3, but the hosts have 2 slots in total"),
        (&["--hosts", "a:1", "--hostfile", &file], "cannot be used with"),
        (&["-n", "0"], "expected an integer >= 1"),
        (&["--env", "=3"], "expected NAME or NAME=VALUE"),
        (&["--env", "1A=3"], "expected NAME or NAME=VALUE"),
        (&["--env", "TRAINER_NOT_SET"], "--env TRAINER_NOT_SET: environment variable not found; use NAME=VALUE"),
        (&["--hosts", "fe80::2:2"], "--hosts: found \"fe80::2:2\": mpirun does not accept IPv6 addresses"),
        (&["--partition", "x"], "--slurm"),
        (&["--resume", "nowhere/checkpoint-3"], "--resume nowhere/checkpoint-3: no such folder"),
    ] {
        let ended = refused(&bench, args);
        assert!(ended.stderr.contains(told), "{args:?}: {}", ended.text());
    }
    let twice = run(launch(&bench, &[]).args(bench.settings("run", &[])).env("OMPI_COMM_WORLD_RANK", "0")).expect(2);
    assert!(twice.stderr.contains("call it once; under mpirun or srun use `trainer train`"), "{}", twice.text());
    let none = run(launch(&bench, &[]).args(bench.settings("run", &[])).env("PATH", bench.path("empty"))).expect(2);
    assert!(none.stderr.contains("there is no mpirun in PATH: install Open MPI"), "{}", none.text());
    assert!(!bench.path("run").exists());
}

/// MPICH's mpirun has other options and other variables.
#[test]
fn another_mpirun_is_refused() {
    let bench = Bench::new("bert-classification");
    fs::create_dir(bench.path("bin")).unwrap();
    let script = bench.path("bin/mpirun");
    fs::write(&script, "#!/bin/sh\necho HYDRA build details:\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ended = run(launch(&bench, &[]).args(bench.settings("run", &[])).env("PATH", bench.path("bin"))).expect(2);
    assert!(ended.stderr.contains("is not Open MPI's (HYDRA build details:)"), "{}", ended.text());
}
