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
        ("gpu-srun-pyxis", "--gpus-per-node 4 --container nvcr.io#lab/trainer:1 --no-requeue sst2.toml"),
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
        ("sst2.toml", "--slurm: how many ranks has a node? --gpus-per-node N"),
        ("-n 2 --gpus-per-node 2 sst2.toml", "-n and --gpus-per-node: there is one rank for each GPU"),
        ("-n 2 --time soon sst2.toml", "--time soon: expected minutes"),
        ("-n 2 --time 2 --signal-before 120 sst2.toml", "--signal-before 120: the job has only 120 seconds (--time 2)"),
        ("-n 2 --setup gone.sh sst2.toml", "--setup gone.sh: there is no such file"),
        ("-n 2 --launcher mpirun --container lab/image sst2.toml", "take --launcher srun"),
        (
            "-n 2 --env TRAINER_NOT_SET sst2.toml",
            "--env TRAINER_NOT_SET: environment variable not found; give it as NAME=VALUE",
        ),
        ("-n 2 --job-name 'a\nb' sst2.toml", "\"a\\nb\" has a line's end or a zero byte in it"),
        ("-n 2 --template gone.jinja sst2.toml", "--template gone.jinja: No such file"),
        ("-n 2 --template wrong.jinja sst2.toml", "wrong.jinja:3: undefined value"),
        ("-n 2 sst2.toml learning_rat=1", "did you mean train.learning_rate?"),
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
