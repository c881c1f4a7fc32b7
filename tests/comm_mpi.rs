//! The MPI backend under a real `mpirun`: this test executable starts itself again as the ranks.
//!
//! Each `rank_*` test below is what one rank does; it is ignored unless the test that starts it names it.

mod common;
#[path = "../src/comm/conformance.rs"]
mod conformance;

use common::process::assert_timed_out;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};
use trainer::comm::cores::{local_place, use_our_cores};
use trainer::comm::mpi::Mpi;
use trainer::comm::{Action, Collective, Op, Pending, Request};
use trainer::error::{self, Kind};

/// How long ranks sleep and wait that others have to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// Enough for `mpirun` to start ranks on a busy machine, and far below [`PATIENCE`].
const SOON: Duration = Duration::from_secs(120);
/// The timeout of those that time out; the ranks that come do so within it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `rank_{name}` on `world` ranks; their output and how long it took.
fn mpirun(world: usize, name: &str) -> (Output, Duration) {
    let since = Instant::now();
    let mut command = ranks(name, &["-n", &world.to_string(), "--oversubscribe"]);
    let output = command.env("OMP_NUM_THREADS", "1").output().expect("mpirun is installed (Debian: openmpi-bin)");
    (output, since.elapsed())
}

/// The command that runs `rank_{name}` with these options of mpirun.
fn ranks(name: &str, options: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(options)
        .arg(std::env::current_exe().expect("the test executable has a path"))
        .args(["--exact", &format!("rank_{name}"), "--nocapture", "--ignored", "--test-threads=1"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn connect(timeout: Duration) -> Arc<dyn Collective> {
    Arc::new(Mpi::connect(timeout).unwrap())
}

/// Prints one line in one piece: the ranks share their output.
fn say(line: String) {
    use std::io::Write;
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

/// Returns when all ranks of a group have said what they had to, since an abort ends the others too; the group may have
/// failed. `mpirun` gets a second to pass it on.
fn all_have_said(comm: &dyn Collective) {
    let answers = comm.roll_call(0, PATIENCE);
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
    std::thread::sleep(Duration::from_secs(1));
}

#[test]
fn conforms() {
    for world in 1..=4 {
        let (output, _) = mpirun(world, "conforms");
        let text = text(&output);
        assert!(output.status.success(), "world {world}: {text}");
        for rank in 0..world {
            assert!(text.contains(&format!("rank {rank} of {world} conforms")), "world {world}: {text}");
        }
    }
}

#[test]
#[ignore = "started by conforms"]
fn rank_conforms() {
    let comm = connect(PATIENCE);
    assert_eq!((comm.local_rank(), comm.local_world()), (comm.rank(), comm.world()));
    conformance::run(&*comm);
    say(format!("rank {} of {} conforms", comm.rank(), comm.world()));
    comm.finish().unwrap();
    comm.finish().unwrap();
    assert!(comm.barrier("too late").is_err() || comm.world() == 1);
}

#[test]
fn parts_conform() {
    for world in [1, 2, 4] {
        let (output, _) = mpirun(world, "parts_conform");
        let text = text(&output);
        assert!(output.status.success(), "world {world}: {text}");
        assert_eq!(text.matches(": parts conform").count(), world, "{text}");
    }
}

#[test]
#[ignore = "started by parts_conform"]
fn rank_parts_conform() {
    let comm = connect(PATIENCE);
    conformance::split(&*comm);
    say(format!("rank {}: parts conform", comm.rank()));
    comm.finish().unwrap();
}

/// Messages about a part of the ranks have the ranks of the world, and a failure there ends the job for all.
#[test]
fn a_part_fails_with_the_ranks_of_the_world() {
    let (output, took) = mpirun(3, "part_mismatch");
    let text = text(&output);
    let sides = "rank 1: all-reduce (sum) of 4 f32; rank 2: all-reduce (sum) of 5 f32";
    for rank in [1, 2] {
        assert!(text.contains(&format!("rank {rank} sees Peer: rank {rank}: \"loss\"")), "{text}");
    }
    assert!(text.matches(sides).count() >= 2 && took < SOON, "{took:?}: {text}");
    assert_eq!(output.status.code(), Some(5), "{text}");

    let (output, took) = mpirun(3, "part_timeout");
    let text = self::text(&output);
    assert!(text.contains("Peer: rank 1: \"a part\"") && text.contains("no message from rank 2 "), "{text}");
    assert!(text.contains("answers: [Some(10), None]") && took < SOON, "{took:?}: {text}");
    assert_eq!(output.status.code(), Some(5), "{text}");
}

#[test]
#[ignore = "started by a_part_fails_with_the_ranks_of_the_world"]
fn rank_part_mismatch() {
    let comm = connect(PATIENCE);
    let part = comm.split(usize::from(comm.rank() > 0), 0).unwrap();
    if comm.rank() == 0 {
        // Ends with the others' abort.
        std::thread::sleep(PATIENCE);
    }
    let n = if comm.rank() == 2 { 5 } else { 4 };
    let buffer = Tensor::zeros([n], (tch::Kind::Float, Device::Cpu));
    let error = part.start_all_reduce(&buffer, Op::Sum, "loss").and_then(Pending::wait).unwrap_err();
    say(format!("rank {} sees {:?}: {error}", comm.rank(), error.kind()));
    all_have_said(&*part);
    part.abort(5);
}

#[test]
#[ignore = "started by a_part_fails_with_the_ranks_of_the_world"]
fn rank_part_timeout() {
    let comm = connect(TIMEOUT);
    let part = comm.split(usize::from(comm.rank() > 0), 0).unwrap();
    if comm.rank() != 1 {
        std::thread::sleep(PATIENCE);
    }
    let error = part.barrier("a part").unwrap_err();
    let answers = part.roll_call(10, Duration::from_millis(200));
    say(format!("{:?}: {error}; answers: {answers:?}", error.kind()));
    part.abort(error.kind().exit_code());
}

#[test]
fn a_mismatch_fails_everywhere_and_names_both() {
    let (output, took) = mpirun(3, "mismatch");
    let text = text(&output);
    let sides = "ranks 0, 2: all-reduce (sum) of 4 f32; rank 1: all-reduce (sum) of 5 f32";
    for rank in 0..3 {
        assert!(text.contains(&format!("rank {rank} sees Peer: rank {rank}: \"loss\"")), "{text}");
    }
    assert!(text.matches(sides).count() >= 3 && took < SOON, "{took:?}: {text}");
}

#[test]
#[ignore = "started by a_mismatch_fails_everywhere_and_names_both"]
fn rank_mismatch() {
    let comm = connect(PATIENCE);
    let n = if comm.rank() == 1 { 5 } else { 4 };
    let buffer = Tensor::zeros([n], (tch::Kind::Float, Device::Cpu));
    let error = comm.start_all_reduce(&buffer, Op::Sum, "loss").and_then(Pending::wait).unwrap_err();
    say(format!("rank {} sees {:?}: {error}", comm.rank(), error.kind()));
    assert!(comm.barrier("after it").is_err());
    all_have_said(&*comm);
    comm.abort(5);
}

#[test]
fn a_timeout_names_the_operation_and_the_late_rank() {
    let (output, took) = mpirun(2, "timeout");
    let text = text(&output);
    let after = "Peer: rank 0: \"the epoch\", all-reduce (sum) of 1 f64 (0.0 MB), collective 1: timed out after ";
    assert_timed_out(&text, after, TIMEOUT.as_secs_f64());
    assert!(text.contains("no message from rank 1 ") && took < SOON, "{took:?}: {text}");
    assert!(text.contains("answers: [Some(10), None]"), "{text}");
    assert_eq!(output.status.code(), Some(5), "{text}");
}

#[test]
#[ignore = "started by a_timeout_names_the_operation_and_the_late_rank"]
fn rank_timeout() {
    let comm = connect(TIMEOUT);
    comm.barrier("the start").unwrap();
    if comm.rank() == 1 {
        std::thread::sleep(PATIENCE);
    }
    let error = comm.barrier("the epoch").unwrap_err();
    let answers = comm.roll_call(10, Duration::from_millis(200));
    say(format!("{:?}: {error}; answers: {answers:?}", error.kind()));
    comm.abort(error.kind().exit_code());
}

#[test]
fn abort_ends_all_with_its_code() {
    let (output, took) = mpirun(3, "abort");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(took < SOON, "{took:?}");
}

#[test]
#[ignore = "started by abort_ends_all_with_its_code"]
fn rank_abort() {
    let comm = connect(PATIENCE);
    comm.barrier("the start").unwrap();
    if comm.rank() == 1 {
        comm.abort(7);
    }
    let _ = comm.barrier("never");
}

#[test]
fn a_rank_that_exits_ends_the_others() {
    let (output, took) = mpirun(3, "exits");
    assert!(!output.status.success() && took < SOON, "{took:?}: {}", text(&output));
}

#[test]
#[ignore = "started by a_rank_that_exits_ends_the_others"]
fn rank_exits() {
    let comm = connect(PATIENCE);
    comm.barrier("the start").unwrap();
    if comm.rank() == 2 {
        std::process::exit(3);
    }
    let error = comm.barrier("never").unwrap_err();
    assert_eq!(error.kind(), Kind::Peer);
}

#[test]
fn leaving_without_goodbye_does_not_hang() {
    let (output, took) = mpirun(2, "leaves");
    assert!(took < SOON && text(&output).contains("leaving"), "{took:?}: {}", text(&output));
}

#[test]
#[ignore = "started by leaving_without_goodbye_does_not_hang"]
fn rank_leaves() {
    let comm = connect(PATIENCE);
    comm.barrier("the start").unwrap();
    let buffer = Tensor::zeros([4], (tch::Kind::Float, Device::Cpu));
    if comm.rank() == 1 {
        // Nobody answers this one, and nobody waits for it.
        drop(comm.start_all_reduce(&buffer, Op::Sum, "never").unwrap());
    }
    say("leaving".to_string());
}

/// mpirun binds a rank to one core: it takes its share of all, and its computing threads with it.
#[test]
fn a_one_core_binding_is_widened() {
    let all = use_our_cores(0, 1, None).threads;
    if std::env::var_os("OMP_NUM_THREADS").is_some() || all < 2 {
        println!("SKIPPED: takes a machine with two cores, and OMP_NUM_THREADS unset");
        return;
    }
    let output = ranks("cores", &["-n", "1", "--bind-to", "core"]).output().unwrap();
    let text = text(&output);
    assert!(text.contains(&format!("Cores {{ threads: {all}, bound: true }}, then {all}")), "{text}");
}

#[test]
#[ignore = "started by a_one_core_binding_is_widened"]
fn rank_cores() {
    let (rank, world) = local_place();
    let cores = use_our_cores(rank, world, None);
    // Seen with the wider binding, there is nothing left to widen.
    say(format!("{cores:?}, then {}", use_our_cores(rank, world, None).threads));
}

/// A step's worth of gradients, reduced while nobody computes: `--nocapture` shows the time.
#[test]
fn large_reductions_are_right() {
    let (output, _) = mpirun(2, "large");
    assert!(output.status.success(), "{}", text(&output));
    for line in text(&output).lines().filter(|line| line.contains(" ms")) {
        println!("{line}");
    }
}

#[test]
#[ignore = "started by large_reductions_are_right"]
fn rank_large() {
    const N: i64 = 11_750_000;
    const TIMES: usize = 9;
    let comm = connect(PATIENCE);
    for kind in [tch::Kind::Float, tch::Kind::BFloat16, tch::Kind::Half] {
        for sharded in [false, true] {
            // Small integers, so that doubling is exact in any type.
            let buffer = Tensor::arange(N, (tch::Kind::Float, Device::Cpu)).remainder(100.0).to_kind(kind);
            let want = &buffer * f64::from(1 << TIMES);
            let half = N / comm.world() as i64;
            let shard = buffer.narrow(0, comm.rank() as i64 * half, half);
            let mut times: Vec<f64> = Vec::new();
            for _ in 0..TIMES {
                comm.barrier("together").unwrap();
                let since = Instant::now();
                if sharded {
                    comm.start_reduce_scatter(&buffer, &shard, "gradients").unwrap().wait().unwrap();
                    comm.start_all_gather(&shard, &buffer, "weights").unwrap().wait().unwrap();
                } else {
                    comm.start_all_reduce(&buffer, Op::Sum, "gradients").unwrap().wait().unwrap();
                }
                times.push(since.elapsed().as_secs_f64() * 1e3);
            }
            assert!(buffer.equal(&want), "{kind:?}, sharded: {sharded}");
            times.sort_by(f64::total_cmp);
            if comm.is_main() {
                let what = if sharded { "reduce-scatter and all-gather" } else { "all-reduce" };
                let (median, least) = (times[TIMES / 2], times[0]);
                say(format!("{what} of {N} {kind:?}: median {median:.1} ms, least {least:.1} ms"));
            }
        }
    }
    comm.finish().unwrap();
}
