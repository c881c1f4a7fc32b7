//! The batch scripts of `trainer launch --slurm`, as files: `tests/slurm/golden/`. `UPDATE_GOLDEN=1` writes them anew.

mod common;

use common::process::{command, program, run};
use common::runs::Bench;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A bench in whose folder are a configuration and a file of shell lines.
fn bench() -> Bench {
    let bench = Bench::new("bert-classification");
    fs::write(
        bench.path("sst2.toml"),
        "output_dir = \"runs/sst2\"\n[model]\npath = \"m\"\n[task]\nkind = \"sequence-classification\"\n[data]\ntrain = \"t.jsonl\"\n",
    )
    .unwrap();
    fs::write(bench.path("setup.sh"), "ulimit -l unlimited\n").unwrap();
    fs::create_dir(bench.path("images")).unwrap();
    fs::write(bench.path("images/trainer 1.sif"), "").unwrap();
    bench
}

fn launch(bench: &Bench, arguments: &str) -> Command {
    let mut launch = command(program(), bench);
    launch.args(["launch", "--slurm"]).args(shell_words::split(arguments).unwrap());
    launch
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/golden")
}

#[test]
fn scripts_are_as_they_were() {
    let bench = bench();
    for (name, arguments) in [
        ("cpu-srun", "-n 2 sst2.toml"),
        (
            "gpu-mpirun-modules",
            "--nodes 4 --gpus-per-node 8 --threads 12 --launcher mpirun --partition gpu --account lab7 --qos high \
             --time 1-12 --job-name 'sst2, large' --module gcc/13 --module openmpi/4.1 --env NCCL_DEBUG=WARN \
             --env 'NOTE=it is mine' --mpi-arg=--tag-output --sbatch-arg=--exclusive --sbatch-arg='--comment=a # b' \
             --max-restarts 1 sst2.toml learning_rate=3e-5 'model.freeze=[\"*.bias\"]'",
        ),
        (
            "gpu-srun-apptainer",
            "--nodes 2 --gpus-per-node 4 --time 12:00:00 --signal-before 900 --container 'images/trainer 1.sif' \
             --setup setup.sh --resume none sst2.toml",
        ),
        ("gpu-srun-pyxis", "--gpus-per-node a100:4 --container nvcr.io#lab/trainer:1 --no-requeue sst2.toml"),
    ] {
        let shown = run(launch(&bench, arguments).arg("--dry-run")).expect(0);
        let script = shown.stdout.replace(program(), "/opt/trainer/bin/trainer");
        let file = golden().join(format!("{name}.sh"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(golden()).unwrap();
            fs::write(&file, &script).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert!(script == expected, "{} differs (UPDATE_GOLDEN=1 writes it anew):\n{script}", file.display());
    }
}

#[test]
fn scripts_pass_shellcheck() {
    let files: Vec<PathBuf> = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 4, "{files:?}");
    match Command::new("shellcheck").args(files).output() {
        Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout)),
        Err(e) => println!("SKIPPED: shellcheck: {e} (Debian: apt-get install shellcheck)"),
    }
}

/// What cannot be meant is refused before anything is submitted.
#[test]
fn mistakes_are_refused() {
    let bench = bench();
    fs::write(bench.path("wrong.jinja"), "#!/bin/bash\n\n{{ partitoin }}\n").unwrap();
    fs::write(bench.path("mine.jinja"), "{{ launcher }} {{ command }} {{ 'a b' | sh }}").unwrap();
    for (arguments, told) in [
        ("sst2.toml", "--slurm: the number of ranks per node is missing: set --gpus-per-node N"),
        ("-n 2 --gpus-per-node 2 sst2.toml", "-n and --gpus-per-node: there is one rank per GPU"),
        ("-n 2 --time soon sst2.toml", "--time soon: expected minutes"),
        (
            "-n 2 --time 2 --signal-before 120 sst2.toml",
            "--signal-before 120: the time limit of the job is 120 seconds (--time 2)",
        ),
        ("-n 2 --setup gone.sh sst2.toml", "--setup gone.sh: no such file"),
        ("-n 2 --launcher mpirun --container lab/image sst2.toml", "use --launcher srun"),
        (
            "-n 2 --env TRAINER_NOT_SET sst2.toml",
            "--env TRAINER_NOT_SET: environment variable not found; use NAME=VALUE",
        ),
        ("-n 2 --job-name 'a\nb' sst2.toml", "\"a\\nb\" contains a line break or a NUL byte"),
        ("-n 2 --template gone.jinja sst2.toml", "--template gone.jinja: No such file"),
        ("-n 2 --template wrong.jinja sst2.toml", "wrong.jinja:3: undefined value"),
        ("-n 2 sst2.toml learning_rat=1", "did you mean train.learning_rate?"),
        ("--gpus-per-node a100: sst2.toml", "expected 8, or with a type h100:8"),
        ("-n 2 --sbatch-arg=--gres=gpu:2 sst2.toml", "set --gpus-per-node N or TYPE:N"),
        ("--gpus-per-node 2 sst2.toml backend=mpi", "trains on the CPU"),
        ("-n 2 sst2.toml backend=solo", "is for one rank, but this job has 2"),
        ("-n 2 --container gone.sif sst2.toml", "--container gone.sif: No such file"),
        ("-n 2 --signal-before 70000 sst2.toml", "70000 is not in 1..=65535"),
        ("-n 2 --grace 5 sst2.toml", "cannot be used with"),
        ("-n 2 --hosts a:2 sst2.toml", "cannot be used with"),
    ] {
        let refused = run(&mut launch(&bench, arguments)).expect(2);
        assert!(refused.stderr.contains(told) && refused.stdout.is_empty(), "{arguments}: {}", refused.text());
    }
    let other = run(launch(&bench, "-n 2 --template mine.jinja sst2.toml").arg("--dry-run")).expect(0);
    assert_eq!(other.stdout, format!("srun {} train sst2.toml 'a b'", program()));
    let orphan = run(command(program(), &bench).args(["launch", "--partition", "gpu", "sst2.toml"])).expect(2);
    assert!(orphan.stderr.contains("--slurm"), "an option of Slurm's without it: {}", orphan.text());
    let nowhere = run(launch(&bench, "-n 2 sst2.toml").env("PATH", "/nowhere")).expect(1);
    assert!(nowhere.stderr.contains("sbatch: No such file or directory"), "{}", nowhere.text());
    assert!(nowhere.stderr.contains("login node"), "{}", nowhere.text());
}

/// What a script does, without Slurm: an `srun` that plays starts, each of them some lines of shell.
struct Play {
    log: String,
    code: Option<i32>,
    /// What `--resume` was in each start, and what `scontrol` was told.
    calls: Vec<String>,
}

impl Play {
    /// Writes the script of these arguments, then runs it as a job whose starts do as told.
    fn new(bench: &Bench, arguments: &str, restarted: bool, starts: &[&str]) -> Self {
        let shown = run(launch(bench, arguments).arg("--dry-run")).expect(0);
        fs::write(bench.path("job.sh"), shown.stdout).unwrap();
        let tool = |name: &str, text: &str| {
            let file = bench.path("bin").join(name);
            fs::create_dir_all(bench.path("bin")).unwrap();
            fs::write(&file, format!("#!/bin/bash\n{text}\n")).unwrap();
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        tool("sleep", ":");
        tool("scontrol", "echo \"scontrol $*\" >> calls");
        tool(
            "srun",
            "echo \"$*\" >> calls\nwc -l < calls > number\ntrap '' USR1\nsource \"./start-$(($(cat number)))\"",
        );
        for (at, lines) in starts.iter().enumerate() {
            fs::write(bench.path(&format!("start-{}", at + 1)), lines).unwrap();
        }
        let path = format!("{}:{}", bench.path("bin").display(), std::env::var("PATH").unwrap());
        let mut job = command("bash", bench);
        job.arg("job.sh").env("PATH", path).env("SLURM_JOB_ID", "7").env_remove("SLURM_RESTART_COUNT");
        if restarted {
            job.env("SLURM_RESTART_COUNT", "1");
        }
        let ended = run(&mut job);
        let calls = fs::read_to_string(bench.path("calls")).unwrap_or_default();
        let of = |line: &str| line.split_once("--resume ").map_or(line, |(_, resume)| resume).to_owned();
        Play { log: ended.text(), code: ended.status.code(), calls: calls.lines().map(of).collect() }
    }
}

/// Lines of a start that writes the checkpoint of a step.
fn writes(step: u64) -> String {
    format!("mkdir -p runs/sst2/checkpoint-{step}\n: > runs/sst2/checkpoint-{step}/COMPLETE\n")
}

/// A bench whose run folder holds an older run's checkpoint.
fn after_a_run() -> Bench {
    let bench = bench();
    let folder = bench.path("runs/sst2/checkpoint-500");
    fs::create_dir_all(&folder).unwrap();
    let mark = fs::File::create(folder.join("COMPLETE")).unwrap();
    mark.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    bench
}

/// A checkpoint to start from, and a run to be replaced, are meant until the job has a checkpoint of its own.
#[test]
fn what_to_start_from_stands_until_there_is_a_checkpoint() {
    let fault = "exit 1\n";
    for (arguments, from) in
        [("-n 2 --resume models/c-7 sst2.toml", "models/c-7"), ("-n 2 sst2.toml overwrite_output_dir=true", "none")]
    {
        for restarted in [false, true] {
            let bench = after_a_run();
            fs::create_dir_all(bench.path("models/c-7")).unwrap();
            let own = format!("{}{fault}", writes(500));
            let play = Play::new(&bench, arguments, restarted, &[fault, &own, "exit 0\n"]);
            let told = (play.code, play.calls.join(" "));
            assert_eq!(told, (Some(0), format!("{from} {from} auto")), "{}", play.log);
        }
    }
    for (arguments, restarted, first) in [
        ("-n 2 --resume none sst2.toml", false, "none"),
        ("-n 2 --resume none sst2.toml", true, "auto"),
        ("-n 2 sst2.toml", false, "auto"),
    ] {
        let play = Play::new(&bench(), arguments, restarted, &[fault, "exit 0\n"]);
        assert_eq!(play.calls, [first, "auto"], "{}", play.log);
    }
}

/// At the time limit a job goes back to the queue unless that is of no use, whatever became of its ranks.
#[test]
fn the_time_limit_is_no_end() {
    let cut = "kill -USR2 $PPID\n/bin/sleep 0.2\n";
    for (step, code, queued) in [(40, 3, true), (40, 138, true), (0, 138, false), (40, 2, false), (40, 0, false)] {
        let start = format!("{}{cut}exit {code}\n", if step > 0 { writes(step) } else { String::new() });
        let play = Play::new(&bench(), "-n 2 sst2.toml", false, &[&start]);
        let told = play.calls.iter().any(|call| call == "scontrol requeue 7");
        assert_eq!((play.code, told, play.calls.len()), (Some(code), queued, 1 + usize::from(queued)), "{}", play.log);
        assert_eq!(play.log.contains("to resume from step 40"), queued, "{}", play.log);
        assert_eq!(
            play.log.contains("the time limit came before the first step (exit 138)"),
            step == 0,
            "{}",
            play.log
        );
    }
    let play = Play::new(&bench(), "-n 2 --no-requeue sst2.toml", false, &[&format!("{}{cut}exit 3\n", writes(40))]);
    assert_eq!((play.code, play.calls.len()), (Some(3), 1), "{}", play.log);
}

#[test]
fn a_setup_that_fails_is_told() {
    let bench = bench();
    fs::write(bench.path("setup.sh"), "[[ -d /nowhere ]] && export A=1\n").unwrap();
    let play = Play::new(&bench, "-n 2 --setup setup.sh sst2.toml", false, &[]);
    assert_eq!((play.code, play.log.trim()), (Some(1), "job 7: exit 1: ./setup.sh failed"), "{}", play.log);
}
