//! Sharding under a real `mpirun`.

mod common;

use common::mistakes::copy_folder;
use common::models::without_weights;
use common::process::{checkpoints, kill, mpi_is_here, mpirun, run, start, trainer};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::{a_full_disk, train};

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];

fn bench() -> Bench {
    Bench::new("bert-classification")
}

/// A sample of the table of `tests/zero.rs`.
#[test]
fn every_stage_takes_the_same_steps() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "alone", &NO_DROPOUT))).expect(0);
    let base = bench.steps("alone");
    assert_eq!(base.len(), 20);
    for (world, zero, recompute) in
        [(2, 1, "none"), (2, 2, "none"), (2, 3, "all"), (4, 1, "none"), (4, 2, "all"), (4, 3, "none")]
    {
        let out = format!("{world}-{zero}");
        let (stage, kept) = (format!("parallel.zero_stage={zero}"), format!("parallel.recompute={recompute}"));
        let more = [&NO_DROPOUT[..], &[&stage, &kept, "micro_batch_tokens=30", "save_strategy=no"]].concat();
        run(mpirun(world, &bench).args(train(&bench, &out, &more))).expect(0);
        assert_equivalent(&bench.steps(&out), &base, &format!("world {world}, {stage}, recompute {recompute}"));
    }
}

/// What four ranks left at stage 3 when one was killed, two go on from at stage 1, and one alone at stage 0.
#[test]
fn a_killed_run_goes_on_in_another_layout() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let endless = ["learning_rate=1e-4", "lr_scheduler_type=constant_with_warmup", "save_steps=10"];
    let endless = [&NO_DROPOUT[..], &endless].concat();
    let sharded = [&endless[..], &["max_steps=1000000", "parallel.zero_stage=3", "micro_batch_tokens=30"]].concat();
    let mut running = start(mpirun(4, &bench).args(train(&bench, "run", &sharded)));
    running.until_step(&bench.path("run"), 25);
    kill(running.ranks()[2], libc::SIGKILL);
    running.wait().expect(137);
    let newest = *checkpoints(&bench.path("run")).last().expect("a complete checkpoint");
    copy_folder(&bench.path("run"), &bench.path("copy"));

    let steps = format!("max_steps={}", newest + 12);
    run(trainer(&bench).args(train(&bench, "whole", &[&endless[..], &[&steps]].concat()))).expect(0);
    for (world, zero, out) in [(2, 1, "run"), (1, 0, "copy")] {
        let stage = format!("parallel.zero_stage={zero}");
        let more = [&endless[..], &[&steps, &stage]].concat();
        let mut command = if world == 1 { trainer(&bench) } else { mpirun(world, &bench) };
        let resumed = run(command.args(train(&bench, out, &more)).args(["--resume", "auto"])).expect(0);
        let from = format!("checkpoint-{newest}: step {newest}, written by 4 ranks");
        assert!(resumed.stderr.contains(&from), "{from}: {}", resumed.text());
        assert!(resumed.stderr.contains(&format!("changed   parallel.zero_stage = {zero} (was 3)")));
        assert_equivalent(&bench.steps(out), &bench.steps("whole"), &format!("from step {newest}, world {world}"));
    }
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint_at_stage_3() {
    if mpi_is_here() {
        a_full_disk(&bench(), |bench| mpirun(2, bench), &["parallel.zero_stage=3"]);
    }
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint_of_all_writers() {
    if mpi_is_here() {
        a_full_disk(&bench(), |bench| mpirun(2, bench), &["parallel.zero_stage=3", "checkpoint.writers=all"]);
    }
}

/// What a size is in bytes: as memory is told to people.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap_or_else(|| panic!("{text}"));
    let scale = ["B", "kB", "MB", "GB"].iter().position(|u| *u == unit).unwrap_or_else(|| panic!("{text}"));
    number.parse::<f64>().unwrap() * 1000f64.powi(scale as i32)
}

/// The limit decides, and the run is that of the stage chosen.
#[test]
fn the_lowest_stage_that_fits_is_chosen() {
    if !mpi_is_here() {
        return;
    }
    let mut bench = bench();
    // Deep, so that what stage 3 gathers is little against what it shards.
    bench.model = without_weights(&bench, |config| config["num_hidden_layers"] = 24.into());
    let more = ["model.init=random", "max_steps=3", "micro_batch_tokens=64", "max_length=64", "save_strategy=no"];
    let auto = |limit: u64, out: &str| {
        let limit = format!("parallel.memory_per_rank={limit}");
        let settings = [&more[..], &["parallel.zero_stage=auto", "parallel.recompute=all", &limit]].concat();
        run(mpirun(2, &bench).args(train(&bench, out, &settings)))
    };
    let refused = auto(1000, "none").expect(2);
    let text = refused.text();
    assert_eq!(text.matches("trainer: error: ").count(), 1, "{text}");
    assert!(text.contains("nothing fits in 1.0 kB per rank") && text.contains("parallel.precision"), "{text}");
    let need = |stage: usize| {
        let told = text.split(&format!("stage {stage}: ")).nth(1).unwrap_or_else(|| panic!("stage {stage}: {text}"));
        bytes(told.split([',', ')']).next().unwrap())
    };
    let needs: Vec<f64> = (0..4).map(need).collect();
    // A layer has 12 d^2 and a few parameters, of d = 32 with an inner width of 2 d here: 8 d^2 and 11 d.
    let parameters = (160 + 64 + 2) * 32 + 24 * (8 * 32 * 32 + 11 * 32) + 32 * 32;
    // 8 bytes of 16 are halved at stage 1 (arXiv 1910.02054).
    let saved = (needs[0] - needs[1]) / f64::from(parameters);
    assert!((saved - 4.0).abs() < 0.3, "{saved} bytes a parameter saved by stage 1: {text}");
    assert!(needs.windows(2).all(|pair| pair[1] < 0.97 * pair[0]), "{needs:?}");

    let limits =
        [needs[0] * 1.02, (needs[0] + needs[1]) / 2.0, (needs[1] + needs[2]) / 2.0, (needs[2] + needs[3]) / 2.0];
    for (stage, limit) in limits.into_iter().enumerate() {
        let (out, fixed) = (format!("auto-{stage}"), format!("stage-{stage}"));
        let told = auto(limit as u64, &out).expect(0);
        let line = format!("zero_stage = \"auto\": {stage} (needs about ");
        assert_eq!(told.stderr.matches(&line).count(), 1, "{line}: {}", told.text());
        let set = format!("parallel.zero_stage={stage}");
        let settings = [&more[..], &[&set, "parallel.recompute=all"]].concat();
        run(mpirun(2, &bench).args(train(&bench, &fixed, &settings))).expect(0);
        assert_eq!(bench.steps(&out), bench.steps(&fixed), "{stage}");
        let held = |out: &str| {
            let summary = bench.summary(out);
            ["weights", "gradients", "optimizer"].map(|kind| summary["persistent_bytes"][0][kind].as_u64().unwrap())
        };
        assert_eq!(held(&out), held(&fixed), "{stage}");
    }
}
