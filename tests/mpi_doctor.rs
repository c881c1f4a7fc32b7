//! `trainer doctor` as a person starts it, on sound jobs and on faults made on purpose.

mod common;

use common::fakes::Fakes;
use common::process::{Ended, LIMIT, command, kill, mpi_is_here, mpirun, program, run, start, trainer};
use common::runs::Bench;
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::Instant;

/// The one JSON object that it printed; the exit code must agree with it.
fn told(ended: &Ended) -> Value {
    let lines: Vec<&str> = ended.stdout.lines().filter(|line| line.starts_with('{')).collect();
    let [line] = lines[..] else { panic!("expected one object: {}", ended.text()) };
    let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let problems = object["problems"].as_u64().unwrap();
    assert_eq!(ended.status.code(), Some(if problems == 0 { 0 } else { 2 }), "{}", ended.text());
    let severity = |finding: &&Value| finding["severity"] == "problem";
    assert_eq!(findings(&object).iter().filter(|f| severity(f)).count() as u64, problems);
    object
}

fn findings(object: &Value) -> Vec<&Value> {
    object["findings"].as_array().unwrap().iter().collect()
}

/// Asserts that a finding is there, with its severity, and that it says all this.
fn finds(ended: &Ended, id: &str, severity: &str, says: &[&str]) {
    let object = told(ended);
    let found = findings(&object).into_iter().find(|finding| finding["id"] == id);
    let finding = found.unwrap_or_else(|| panic!("{id} was not found: {}", ended.text()));
    assert_eq!(finding["severity"], severity, "{finding}");
    assert!(["seen", "why", "remedy"].iter().all(|part| !finding[part].as_str().unwrap().is_empty()), "{finding}");
    says.iter()
        .for_each(|part| assert!(finding.to_string().contains(part), "{id} says nothing of {part:?}: {finding}"));
}

fn bench() -> Bench {
    Bench::new("bert-classification")
}

/// `mpirun -n 2` of a shell line, in which `"$0"` is the program.
fn mpirun_shell(bench: &Bench, line: &str) -> Command {
    let mut command = command("mpirun", bench);
    command.args(["-n", "2", "--oversubscribe", "sh", "-c", line, program()]);
    command
}

/// Whether this process may make name spaces; says so if not.
fn may_unshare() -> bool {
    let may = Command::new("unshare").args(["--uts", "--mount", "true"]).output().is_ok_and(|o| o.status.success());
    if !may {
        println!("SKIPPED: name spaces cannot be made here (root and util-linux are needed)");
    }
    may
}

#[test]
fn one_process_learns_about_its_machine() {
    let bench = bench();
    let object = told(&run(trainer(&bench).args(["doctor", "--json"])));
    let rank = &object["facts"]["ranks"][0];
    assert_eq!(rank["software"]["trainer"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(rank["software"]["libtorch"]["version"].as_str().unwrap().starts_with("2."), "{rank}");
    assert!(rank["software"]["mpi"]["path"].as_str().unwrap().contains("libmpi"), "{rank}");
    assert!(rank["cores"]["threads"].as_u64().unwrap() >= 1);
    assert_eq!(object["facts"]["sweep"], Value::Null);
    assert!(object["facts"]["folder"]["free_bytes"].as_u64().unwrap() > 0);
    let ended = run(trainer(&bench).args(["doctor", "--output-dir", "runs/later"]));
    for part in ["Software", "GPUs", "Ranks", "Output folder", "runs/later (checked: ", "Collectives", "Findings"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.text());
    }
    assert!(!bench.path("runs").exists(), "the check changes nothing");
}

#[test]
fn two_ranks_are_timed_and_checked() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let object = told(&run(mpirun(2, &bench).args(["doctor", "--json"])));
    let facts = &object["facts"];
    assert_eq!(facts["ranks"].as_array().unwrap().len(), 2);
    assert_eq!((&facts["ranks"][1]["rank"], &facts["ranks"][1]["local_rank"]), (&1.into(), &1.into()));
    let sweep = &facts["sweep"];
    assert_eq!((&sweep["backend"], &sweep["wrong"]), (&"mpi".into(), &Value::Null));
    assert_eq!(sweep["rows"].as_array().unwrap().len(), 27);
    let ended = run(mpirun(2, &bench).args(["doctor"]));
    for part in ["all-reduce", "reduce-scatter", "all-gather", "64 MiB", "bus GB/s"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.text());
    }
    assert_eq!(ended.stdout.matches("Findings").count(), 1, "rank 0 alone prints: {}", ended.text());
}

#[test]
fn a_gpu_driver_without_nccl_and_without_cuda_in_libtorch() {
    let (bench, fakes) = (bench(), Fakes::new());
    let empty = bench.path("empty");
    fs::create_dir(&empty).unwrap();
    // the fake libcuda plays the driver. Where NCCL would be, there is nothing.
    let mut command = trainer(&bench);
    fakes.load_in(&mut command).env("TRAINER_NCCL_PATH", &empty).args(["doctor", "--json"]);
    let ended = run(&mut command);
    finds(&ended, "nccl-missing", "problem", &["NCCL was not found", "TRAINER_NCCL_PATH"]);
    finds(&ended, "libtorch-without-cuda", "problem", &["8 GPUs (Fake GPU)", "launch/setup.sh --cuda"]);
    // With the fake NCCL one of the two is left.
    let mut command = trainer(&bench);
    fakes.load_in(&mut command).args(["doctor", "--json"]);
    let ended = run(&mut command);
    finds(&ended, "libtorch-without-cuda", "problem", &[]);
    assert!(!ended.stdout.contains("nccl-missing"), "{}", ended.text());
}

#[test]
fn two_ranks_on_one_gpu() {
    if !mpi_is_here() {
        return;
    }
    let (bench, fakes) = (bench(), Fakes::new());
    let mut command = mpirun(2, &bench);
    fakes.load_in(&mut command).env("FAKE_GPUS", "1").args(["doctor", "--json", "--backend", "nccl"]);
    let ended = run(&mut command);
    finds(&ended, "gpu-shared", "problem", &["ranks 0, 1", "0000:01:00.0"]);
    assert!(
        told(&ended)["facts"]["nccl_refused"].as_str().unwrap().contains("Duplicate GPU detected"),
        "{}",
        ended.text()
    );
}

#[test]
fn nccl_is_swept_where_ranks_train_with_it() {
    if !mpi_is_here() {
        return;
    }
    let (bench, fakes) = (bench(), Fakes::new());
    let mut command = mpirun(2, &bench);
    fakes.load_in(&mut command).args(["doctor", "--json", "--backend", "nccl"]);
    let object = told(&run(&mut command));
    let sweep = &object["facts"]["sweep"];
    assert_eq!((&sweep["backend"], &sweep["wrong"], &sweep["error"]), (&"nccl".into(), &Value::Null, &Value::Null));
}

#[test]
fn ranks_that_each_think_they_are_alone() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    // What mpirun tells of its ranks stays, but not the way to them: so it is for a library of another MPI.
    let way = "for name in $(env | sed -n 's/^\\(PMIX_[A-Za-z0-9_]*\\|OMPI_MCA_[A-Za-z0-9_]*\\)=.*/\\1/p'); do unset $name; done";
    let ended = run(&mut mpirun_shell(&bench, &format!("{way}; exec \"$0\" doctor --json")));
    finds(&ended, "ranks-alone", "problem", &["2 ranks were started (OMPI_COMM_WORLD_SIZE=2", "Open MPI"]);
    // With the rest of Open MPI's settings left, MPI_Init ends the process: there is an answer all the same.
    let way = way.replace("\\|OMPI_MCA_[A-Za-z0-9_]*", "");
    let ended = run(&mut mpirun_shell(&bench, &format!("{way}; exec \"$0\" doctor --json")));
    finds(&ended, "mpi-does-not-start", "problem", &["2 ranks were started", "the MPI library ended the process"]);
    // Not a variable is left: the processes above tell.
    let ended = run(&mut mpirun_shell(&bench, "exec env -i PATH=\"$PATH\" \"$0\" doctor"));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.text());
    assert!(ended.stdout.contains("ranks-alone") && ended.stdout.contains("started 2 of these"), "{}", ended.text());
    // As `srun --mpi=none` does it.
    let mut slurm = trainer(&bench);
    slurm.envs([("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")]).args(["doctor", "--json"]);
    finds(&run(&mut slurm), "ranks-alone", "problem", &["srun --mpi=pmix"]);
    // A batch script without a launcher, and one rank asked for where two are: training refuses both.
    let mut batch = trainer(&bench);
    batch.env("SLURM_NTASKS", "2").args(["doctor", "--json"]);
    finds(&run(&mut batch), "ranks-alone", "problem", &["2 tasks, but this is a single process"]);
    let ended = run(mpirun(2, &bench).args(["doctor", "--json", "--backend", "solo"]));
    finds(&ended, "ranks-alone", "problem", &["is for one rank, but 2 were started"]);
}

#[test]
fn nccl_is_asked_for_where_there_is_no_gpu() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let mut command = trainer(&bench);
    command.env("CUDA_VISIBLE_DEVICES", "").args(["doctor", "--json", "--backend", "nccl"]);
    finds(&run(&mut command), "nccl-refuses", "problem", &["no rank has a GPU"]);
}

#[test]
fn too_little_shared_memory() {
    if !mpi_is_here() || !may_unshare() {
        return;
    }
    let bench = bench();
    for (size, severity) in [("64m", "warning"), ("12m", "problem")] {
        let line = format!(
            "mount -t tmpfs -o size={size} tmpfs /dev/shm && exec mpirun -n 2 --oversubscribe \"$0\" doctor --json --no-sweep"
        );
        let mut command = command("unshare", &bench);
        command.args(["--mount", "sh", "-c", &line, program()]);
        finds(&run(&mut command), "shared-memory-small", severity, &["/dev/shm", "--shm-size=1g"]);
    }
}

#[test]
fn an_output_folder_that_is_not_shared() {
    if !mpi_is_here() || !may_unshare() {
        return;
    }
    let bench = bench();
    let runs = bench.path("runs");
    fs::create_dir(&runs).unwrap();
    // Each rank has a host name of its own; in the second case, also a disk of its own.
    for (disk, shared) in [("true", true), ("mount -t tmpfs tmpfs runs", false)] {
        let line = format!(
            "hostname host$OMPI_COMM_WORLD_RANK && {disk} && exec \"$0\" doctor --json --no-sweep --output-dir runs"
        );
        let line = format!("exec unshare --uts --mount sh -c '{line}' \"$0\"");
        let ended = run(&mut mpirun_shell(&bench, &line));
        if shared {
            let hosts = told(&ended)["facts"]["folder"]["hosts"].clone();
            assert_eq!(hosts.as_array().map(Vec::len), Some(2), "{}", ended.text());
            assert!(!ended.stdout.contains("folder-not-shared"), "{}", ended.text());
        } else {
            finds(&ended, "folder-not-shared", "problem", &["host1 (rank 1) does not see the file of host0", "NFS"]);
        }
    }
    assert_eq!(fs::read_dir(&runs).unwrap().count(), 0, "probe files stayed");
}

#[test]
fn an_output_folder_that_hangs_leaves_what_is_known() {
    if !mpi_is_here() || !may_unshare() {
        return;
    }
    for late in 0..2 {
        let bench = bench();
        let runs = bench.path("runs");
        fs::create_dir(&runs).unwrap();
        // Where the late rank's file would be there is a pipe, which nobody reads: it is named by rank 0's process.
        let line = format!(
            "hostname host$OMPI_COMM_WORLD_RANK; [ $OMPI_COMM_WORLD_RANK = 1 ] || mkfifo runs/.trainer-doctor-$$-host-{late}; \
             exec \"$0\" doctor --timeout-seconds 15 --output-dir runs"
        );
        let ended =
            run(&mut mpirun_shell(&bench, &format!("exec unshare --uts --mount sh -c '{line}' \"$0\""))).expect(5);
        for part in ["Software", "Ranks", "Output folder", "Findings", "folder-failed"] {
            assert_eq!(ended.stdout.matches(part).count(), 1, "{part}: {}", ended.text());
        }
        assert!(!ended.stdout.contains("no problems found"), "{}", ended.text());
        assert_eq!(fs::read_dir(&runs).unwrap().count(), 1, "more than the pipe stayed");
    }
}

#[test]
fn an_output_folder_that_cannot_be_written() {
    let ended = run(trainer(&bench()).args(["doctor", "--json", "--output-dir", "/proc"]));
    finds(&ended, "folder-not-writable", "problem", &["/proc"]);
}

#[test]
fn a_rank_that_stops_is_named_and_nothing_hangs() {
    if !mpi_is_here() {
        return;
    }
    let (bench, since) = (bench(), Instant::now());
    let mut running = start(mpirun(2, &bench).args(["doctor", "--timeout-seconds", "15"]));
    running.until("the facts", |text| text.contains("Output folder"));
    kill(running.ranks()[1], libc::SIGSTOP);
    let ended = running.wait().expect(5);
    // Stopped inside a collective that both have started, it cannot be told from the other.
    let said = ended.text().split_whitespace().collect::<Vec<_>>().join(" ");
    let named = ["rank 1", "one of them died or stopped inside it"].iter().any(|words| said.contains(words));
    assert!(ended.stdout.contains("sweep-failed") && named, "{}", ended.text());
    assert!(since.elapsed() < LIMIT, "{}", ended.text());
}

#[test]
fn a_gpu_collective_that_never_ends_leaves_what_is_known() {
    if !mpi_is_here() {
        return;
    }
    let (bench, fakes) = (bench(), Fakes::new());
    let mut command = mpirun(2, &bench);
    fakes.load_in(&mut command).envs([("FAKE_NCCL_FAULT", "collective-hangs:3"), ("FAKE_NCCL_FAULT_RANK", "1")]);
    let ended = run(command.args(["doctor", "--json", "--backend", "nccl", "--timeout-seconds", "15"])).expect(5);
    let object: Value = serde_json::from_str(ended.stdout.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert!(findings(&object).iter().any(|finding| finding["id"] == "sweep-failed"), "{}", ended.text());
}
