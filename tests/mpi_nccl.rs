//! Training over NCCL under a real `mpirun`, on a machine without a GPU: the fakes of libcuda and libnccl are loaded
//! in place of the real libraries, and everything above them is the code that runs on GPUs.

mod common;

use common::fakes::Fakes;
use common::process::{Ended, assert_timed_out, mpi_is_here, mpirun, run};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::train;
use std::process::Command;
use std::time::{Duration, Instant};

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
/// The timeout of [`faulty`] in seconds.
const TIMEOUT: f64 = 10.0;
/// What a run that hangs may take: starting, the timeout, and asking the other ranks.
const SOON: Duration = Duration::from_secs(110);

/// Trains with the fake NCCL and with MPI, and asserts that both took the same steps.
fn trains_as_with_mpi(world: usize, more: &[&str]) {
    let (bench, fakes) = (Bench::new("bert-classification"), Fakes::new());
    let what = format!("world {world}, {}", more.join(" "));
    let settings = |backend| [&NO_DROPOUT[..], &[backend], more].concat();
    run(mpirun(world, &bench).args(train(&bench, "mpi", &settings("backend=mpi")))).expect(0);
    let mut command = mpirun(world, &bench);
    fakes.load_in(&mut command).args(train(&bench, "nccl", &settings("backend=nccl")));
    let ended = run(&mut command).expect(0);
    assert!(ended.stderr.contains(&format!("ranks     {world} (nccl")), "{what}: {}", ended.text());
    assert_eq!(bench.steps("nccl").len(), 20, "{what}");
    assert_equivalent(&bench.steps("nccl"), &bench.steps("mpi"), &what);
}

#[test]
fn nccl_trains_as_mpi_does() {
    if !mpi_is_here() {
        return;
    }
    for world in [2, 4] {
        for zero in ["parallel.zero_stage=0", "parallel.zero_stage=1", "parallel.zero_stage=2", "parallel.zero_stage=3"]
        {
            trains_as_with_mpi(world, &["micro_batch_tokens=40", zero]);
        }
    }
    trains_as_with_mpi(2, &["micro_batch_tokens=40", "parallel.zero_stage=3", "parallel.recompute=all"]);
    trains_as_with_mpi(1, &[]);
}

/// A run on two ranks that cannot go well.
fn faulty(fakes: &Fakes, variables: &[(&str, &str)]) -> (Ended, Duration) {
    let (bench, since) = (Bench::new("bert-classification"), Instant::now());
    let mut command: Command = mpirun(2, &bench);
    fakes.load_in(&mut command).envs(variables.iter().copied());
    let timeout = format!("comm.timeout_seconds={TIMEOUT}");
    let ended = run(command.args(train(&bench, "run", &["backend=nccl", &timeout])));
    (ended, since.elapsed())
}

/// Asserts that a fault of the fake NCCL ends the job with exit code 5 and says all this; returns all that it said.
fn ends_with(fault: &str, rank: Option<&str>, says: &[&str]) -> Option<String> {
    if !mpi_is_here() {
        return None;
    }
    let mut variables = vec![("FAKE_NCCL_FAULT", fault)];
    variables.extend(rank.map(|rank| ("FAKE_NCCL_FAULT_RANK", rank)));
    let (ended, took) = faulty(&Fakes::new(), &variables);
    let ended = ended.expect(5);
    for part in says {
        assert!(ended.text().contains(part), "{fault}: says nothing of {part:?}: {}", ended.text());
    }
    assert!(took < SOON, "{fault}: {took:?}: {}", ended.text());
    Some(ended.text())
}

/// The same for a fault that only the timeout ends.
fn times_out(fault: &str, rank: Option<&str>, says: &[&str], before: &str) {
    if let Some(text) = ends_with(fault, rank, says) {
        assert_timed_out(&text, before, TIMEOUT);
    }
}

#[test]
fn an_asynchronous_error_ends_the_job_and_is_named() {
    let cause =
        "a collective failed: remote process exited or there was a network error (NCCL error 6): collective 37, ";
    // The first gradients of a step: nothing else is under way.
    ends_with("async-error:37", Some("1"), &["rank 1: ", cause, "as asked for", "NOT FINISHED"]);
}

#[test]
fn a_call_that_never_returns_ends_the_job() {
    times_out("call-hangs:40", None, &[", GPU collective ", "NOT FINISHED"], ": timed out after ");
}

/// The rank that is stuck outside everything that the others wait for.
#[test]
fn a_call_that_one_rank_never_returns_from_ends_the_job() {
    times_out("call-hangs:40", Some("0"), &[", GPU collective ", "NOT FINISHED"], ": timed out after ");
}

#[test]
fn a_collective_that_never_ends_ends_the_job() {
    let says = [", GPU collective ", "all ranks had started it", "NOT FINISHED"];
    times_out("collective-hangs:40", None, &says, ": timed out after ");
}

#[test]
fn a_connection_attempt_that_hangs_ends_the_job() {
    times_out("init-hangs", Some("1"), &["\"connecting the ranks in NCCL\""], "timed out after ");
}

/// What is found before training starts: the same message from all ranks, once, and a clean end.
fn refused(fakes: &Fakes, variables: &[(&str, &str)], code: i32, says: &[&str]) {
    if !mpi_is_here() {
        return;
    }
    let (ended, took) = faulty(fakes, variables);
    let ended = ended.expect(code);
    for part in says {
        assert!(ended.text().contains(part), "says nothing of {part:?}: {}", ended.text());
    }
    assert_eq!(ended.text().matches("trainer: error: ").count(), 1, "{}", ended.text());
    assert!(took < SOON, "{took:?}: {}", ended.text());
}

/// What counts is the functions, not the number: 2.28.9 comes with libtorch 2.11. Only sharing a GPU takes a newer one.
#[test]
fn an_older_version_does_all_but_share_a_gpu() {
    if !mpi_is_here() {
        return;
    }
    let older = ("FAKE_NCCL_VERSION", "22809");
    let (bench, fakes) = (Bench::new("bert-classification"), Fakes::new());
    let mut command = mpirun(2, &bench);
    fakes.load_in(&mut command).env(older.0, older.1).args(train(&bench, "run", &["backend=nccl", "max_steps=1"]));
    run(&mut command).expect(0);
    let shared = [older, ("FAKE_GPUS", "1"), ("NCCL_MULTI_RANK_GPU_ENABLE", "1")];
    refused(&fakes, &shared, 2, &["Duplicate GPU detected", "NCCL 2.30 or newer, and this one is older"]);
}

#[test]
fn ranks_share_a_gpu_where_nccl_allows_it() {
    if !mpi_is_here() {
        return;
    }
    let (bench, fakes) = (Bench::new("bert-classification"), Fakes::new());
    let mut command = mpirun(3, &bench);
    fakes.load_in(&mut command).env("FAKE_NCCL_VERSION", "23007").env("FAKE_GPUS", "2");
    command.env("NCCL_MULTI_RANK_GPU_ENABLE", "1").args(train(&bench, "run", &["backend=nccl", "max_steps=2"]));
    let ended = run(&mut command).expect(0);
    assert!(ended.stderr.contains("ranks     3 (nccl"), "{}", ended.text());
    assert_eq!(bench.steps("run").len(), 2);
}

#[test]
fn a_missing_function_is_named() {
    let says = ["lacks the NCCL functions ncclGroupEnd. Install NCCL "];
    refused(&Fakes::without("ncclGroupEnd"), &[], 2, &says);
}

#[test]
fn a_machine_without_a_gpu_is_refused() {
    refused(&Fakes::new(), &[("FAKE_GPUS", "0")], 2, &["NCCL needs a GPU"]);
}

#[test]
fn two_ranks_on_one_gpu_are_refused() {
    let says = ["Duplicate GPU detected : rank 1 and rank 0", "start one rank per GPU, or let ranks share GPUs"];
    refused(&Fakes::new(), &[("FAKE_GPUS", "1")], 2, &says);
}

/// An error of the call itself is that rank's: it says so and ends the job.
#[test]
fn a_call_that_fails_ends_the_job() {
    if !mpi_is_here() {
        return;
    }
    let variables = [("FAKE_NCCL_FAULT", "call-fails:40"), ("FAKE_NCCL_FAULT_RANK", "1")];
    let (ended, took) = faulty(&Fakes::new(), &variables);
    let text = ended.expect(1).text();
    assert!(text.contains("rank 1: error: ") && text.contains("unhandled system error (NCCL error 2)"), "{text}");
    assert!(text.contains("collective 40, ") && took < SOON, "{took:?}: {text}");
}
