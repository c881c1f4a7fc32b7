//! `trainer launch` with a real `mpirun`, on two ranks of this machine: what it does with signals and faults.

mod common;

use common::fakes::Fakes;
use common::process::{
    Running, checkpoints, command, is_alive, kill, mpi_is_here, mpirun, run, start, steps_logged, trainer,
};
use common::runs::Bench;
use common::scenarios::{stopped_with_a_checkpoint, train};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A run with dropout that must be stopped to end.
const ENDLESS: [&str; 6] = [
    "max_steps=1000000",
    "lr_scheduler_type=constant_with_warmup",
    "hidden_dropout_prob=0.1",
    "attention_probs_dropout_prob=0.1",
    "save_steps=20",
    "save_total_limit=3",
];

fn bench() -> Bench {
    Bench::new("bert-classification")
}

/// `trainer launch -n 2 OPTIONS`, for a run into `run`.
fn launch(bench: &Bench, options: &[&str], settings: &[&str]) -> Command {
    let mut command = trainer(bench);
    // What launch itself has to see to, for root.
    command.env_remove("OMPI_ALLOW_RUN_AS_ROOT").env_remove("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
    command.args(["launch", "-n", "2"]).args(options).args(bench.settings("run", settings)).env_remove("SLURM_JOB_ID");
    command
}

/// Two ranks at work, past their second checkpoint.
fn endless(bench: &Bench, options: &[&str]) -> Running {
    let mut running = start(&mut launch(bench, options, &ENDLESS));
    running.until_step(&bench.path("run"), 45);
    running
}

/// The process ids of the two ranks.
fn ranks(running: &Running) -> Vec<i32> {
    let ranks = running.ranks();
    assert_eq!(ranks.len(), 2, "{}", running.text());
    ranks
}

/// Asserts that the steps of `run` are those of a run to the same end that nothing interrupted.
fn as_if_uncut(bench: &Bench, steps: usize, settings: &[&str]) {
    run(mpirun(2, bench).args(train(bench, "whole", settings))).expect(0);
    assert_eq!(bench.steps("run").len(), steps);
    assert_eq!(bench.steps("run"), bench.steps("whole"));
}

#[test]
fn it_trains_as_mpirun_does() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let ended = run(&mut launch(&bench, &[], &[])).expect(0);
    assert!(ended.stderr.contains("ranks     2 (mpi, CPU, 1 thread per rank)"), "{}", ended.text());
    assert!(!ended.text().contains("<stderr>") && !ended.text().contains("launch:"), "{}", ended.text());
    as_if_uncut(&bench, 20, &[]);
    // What is there already is finished: by default launch goes on with it.
    let again = run(&mut launch(&bench, &[], &["max_steps=25"])).expect(0);
    assert!(again.stderr.contains("resumed   from"), "{}", again.text());
}

/// Each rank on its share of the cores, although it inherits none: and the number of threads that goes with it.
#[test]
fn ranks_have_their_threads_and_variables() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let options = ["--threads", "3", "--env", "TRAINER_LOG=error", "--env", "ANSWER=4 2"];
    let mut running = start(&mut launch(&bench, &options, &ENDLESS));
    running.until_step(&bench.path("run"), 5);
    running.until("the header", |text| text.contains("ranks     2 (mpi, CPU, 3 threads per rank)"));
    let mut shares: Vec<String> = Vec::new();
    for pid in ranks(&running) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let has = |entry: &str| environment.split(|&byte| byte == 0).any(|found| found == entry.as_bytes());
        assert!(has("TRAINER_LOG=error") && has("ANSWER=4 2") && has("TRAINER_LAUNCHED=1") && has("TRAINER_BIND=cpu"));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        shares.push(status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap().to_owned());
    }
    if trainer::machine::cpus::our_cores().len() > 1 {
        assert_ne!(shares[0], shares[1], "two ranks, two shares");
    }
}

#[test]
fn ctrl_c_and_sigterm_write_a_checkpoint() {
    if !mpi_is_here() {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1] {
        let bench = bench();
        let running = endless(&bench, &[]);
        running.signal(signal);
        stopped_with_a_checkpoint(&bench, running.wait(), "run");
        let newest = *checkpoints(&bench.path("run")).last().unwrap();
        let steps = format!("max_steps={}", newest + 10);
        let settings = [&ENDLESS[..], &[&steps]].concat();
        run(&mut launch(&bench, &[], &settings)).expect(0);
        as_if_uncut(&bench, newest as usize + 10, &settings);
    }
}

/// With nohup it outlives its terminal; and only a second Ctrl-C costs the checkpoint.
#[test]
fn a_terminal_may_go() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let mut nohup = command("nohup", &bench);
    let launch = launch(&bench, &[], &ENDLESS);
    nohup.arg(launch.get_program()).args(launch.get_args()).env_remove("SLURM_JOB_ID");
    let mut running = start(&mut nohup);
    running.until_step(&bench.path("run"), 20);
    running.signal(libc::SIGHUP);
    let so_far = steps_logged(&bench.path("run"));
    running.until_step(&bench.path("run"), so_far + 20);
    running.signal(libc::SIGINT);
    running.until("the wish", |text| text.contains("requesting a checkpoint from the ranks"));
    running.signal(libc::SIGTERM);
    stopped_with_a_checkpoint(&bench, running.wait(), "run");
}

/// Ranks that cannot write a checkpoint: a second Ctrl-C, or the end of the patience, ends them nevertheless.
#[test]
fn nobody_waits_for_ever() {
    if !mpi_is_here() {
        return;
    }
    for (options, ctrl_c, code, told) in
        [(&[][..], 2, Some(130), "without a checkpoint"), (&["--grace", "1"], 1, None, "--grace of 1 s is over")]
    {
        let bench = bench();
        let mut running = endless(&bench, options);
        let ranks = ranks(&running);
        ranks.iter().for_each(|&pid| kill(pid, libc::SIGSTOP));
        assert_eq!(running.text().matches("launch:").count(), 0, "{}", running.text());
        running.signal(libc::SIGINT);
        running.until("the first", |text| text.contains("requesting a checkpoint from the ranks"));
        (1..ctrl_c).for_each(|_| running.signal(libc::SIGINT));
        let ended = running.wait();
        assert!(ended.status.code().is_some_and(|code| code != 0 && code != 3), "{}: {}", ended.status, ended.text());
        assert!(code.is_none() || ended.status.code() == code, "{}: {}", ended.status, ended.text());
        assert!(ended.text().contains(told) && !ended.text().contains("restart"), "{}", ended.text());
        let since = Instant::now();
        while ranks.iter().any(|&pid| is_alive(pid)) {
            assert!(since.elapsed() < Duration::from_secs(60), "a rank lives on: {}", ended.text());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `kill -9` of a rank, as the kernel does it when memory runs out: the job goes on from its newest checkpoint by itself
/// and takes the very steps of a run that nothing disturbed.
#[test]
fn a_killed_rank_is_a_restart_and_costs_no_step() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let mut running = endless(&bench, &[]);
    kill(ranks(&running)[1], libc::SIGKILL);
    running.until("the restart", |text| text.contains("resumed   from"));
    let so_far = steps_logged(&bench.path("run"));
    running.until_step(&bench.path("run"), so_far + 20);
    running.signal(libc::SIGINT);
    let ended = running.wait();
    let text = ended.text();
    assert!(text.contains("launch: exit 137: mpirun noticed that process rank 1"), "{text}");
    assert!(text.contains("launch: restart 1 of 3 in 2 s, from step "), "{text}");
    stopped_with_a_checkpoint(&bench, ended, "run");
    let newest = *checkpoints(&bench.path("run")).last().unwrap();
    let steps = format!("max_steps={newest}");
    as_if_uncut(&bench, newest as usize, &[&ENDLESS[..], &[&steps]].concat());
}

#[test]
fn a_job_that_comes_no_further_is_given_up() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let settings = [&ENDLESS[..4], &["save_steps=1000000"]].concat();
    let mut running = start(&mut launch(&bench, &[], &settings));
    for start in 1..=2 {
        running.until("the start", |text| text.matches("output    ").count() == start);
        kill(ranks(&running)[0], libc::SIGKILL);
    }
    let ended = running.wait().expect(137);
    let last = ended.stderr.trim_end().lines().last().unwrap();
    assert!(last.starts_with("trainer: launch: exit 137, not restarted: 2 consecutive starts"), "{}", ended.text());
    assert!(last.contains("signal 9"), "the cause is on the last line: {}", ended.text());
    assert!(ended.text().contains("restart 1 of 3 in 2 s, from scratch, because there is no checkpoint yet"));
    assert!(ended.stderr.contains("launch: the last lines of each rank:\n  rank 0 | "), "{}", ended.text());
}

#[test]
fn without_restarts_the_exit_code_is_the_jobs() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let running = endless(&bench, &["--max-restarts", "0"]);
    kill(ranks(&running)[1], libc::SIGKILL);
    let ended = running.wait().expect(137);
    assert!(!ended.text().contains("restart"), "{}", ended.text());
    // What does not heal is not tried again, and told once.
    let refused = run(&mut launch(&bench, &["--resume", "none"], &[])).expect(2);
    assert_eq!(refused.text().trim().lines().count(), 1, "{}", refused.text());
    assert!(refused.stderr.contains("already contains a run"), "{}", refused.text());
    // What mpirun itself refuses, neither.
    let wrong = run(&mut launch(&bench, &["--mpi-arg=--no-such-option"], &[]));
    let last = wrong.stderr.trim_end().lines().last().unwrap();
    assert!(last.contains("not restarted: mpirun could not start the ranks"), "{}", wrong.text());
    assert!(wrong.stderr.contains("no-such-option") && !wrong.status.success(), "{}", wrong.text());
}

/// On the fakes of the GPUs' libraries: as many ranks as there are GPUs, and no more.
#[test]
fn one_rank_per_gpu() {
    if !mpi_is_here() {
        return;
    }
    let (bench, fakes) = (bench(), Fakes::new());
    let launch = |options: &[&str]| {
        let mut command = trainer(&bench);
        command.arg("launch").args(options).args(bench.settings("run", &["backend=nccl", "max_steps=3"]));
        fakes.load_in(&mut command).env("FAKE_GPUS", "2").env_remove("SLURM_JOB_ID");
        run(&mut command)
    };
    let refused = launch(&["-n", "3"]).expect(2);
    assert!(refused.stderr.contains("-n 3, but this host has 2 visible GPUs"), "{}", refused.text());
    let ended = launch(&[]).expect(0);
    assert!(ended.stderr.contains("ranks     2 (nccl"), "{}", ended.text());
}
