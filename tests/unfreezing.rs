//! Gradual unfreezing: which step trains which weight, with which rate, at every ZeRO stage, and after a resume.

mod common;

use common::models::{floats, tensors};
use common::runs::{Bench, assert_equivalent};
use std::collections::BTreeMap;
use trainer::checkpoint::run_dir::Resume;

/// One layer every 4 steps. All 20 steps are in it.
const EVERY_4: &str = "train.unfreeze=4";
/// The same as stages, by steps and epochs: an epoch has 8 steps.
const STAGES: &str = r#"train.unfreeze=[{params=["layers.1"], at_step=4}, {params=["layers.0"], at_epoch=1}, {params=["bert.embeddings.*"], at_epoch=1.5}]"#;

type Tensors = BTreeMap<String, Vec<u8>>;

fn bench() -> Bench {
    Bench::new("bert-classification")
}

fn go(bench: &Bench, world: usize, out: &str, more: &[&str], resume: &Resume) {
    bench.run(world, out, more, resume).unwrap_or_else(|e| panic!("{out}: {e}"));
}

fn model(bench: &Bench, folder: &str) -> Tensors {
    tensors(&bench.path(folder).join("model.safetensors"))
}

/// Number of steps before a weight is trained, with [`EVERY_4`] on two layers.
fn starts(name: &str) -> u64 {
    match name {
        _ if name.starts_with("bert.encoder.layer.1.") => 4,
        _ if name.starts_with("bert.encoder.layer.0.") => 8,
        _ if name.starts_with("bert.embeddings.") => 12,
        _ => 0,
    }
}

/// Factor of the learning rate with `layer_lr_decay = 0.5`.
fn factor(name: &str) -> f64 {
    match starts(name) {
        4 => 0.5,
        8 => 0.25,
        12 => 0.125,
        _ => 1.0,
    }
}

/// The greatest change of an element.
fn moved(before: &[u8], after: &[u8]) -> f64 {
    let moved = floats(before).into_iter().zip(floats(after)).map(|(a, b)| f64::from((a - b).abs()));
    moved.fold(0.0, f64::max)
}

/// At every step: a weight changes if and only if its stage has begun. Its first update is its learning rate at that
/// step, since AdamW's state begins there and epsilon is almost 0.
#[test]
fn each_step_trains_what_the_table_says() {
    let bench = bench();
    let common = ["save_steps=1", "adam_epsilon=1e-30", "weight_decay=0", "train.layer_lr_decay=0.5", "max_steps=16"];
    for (out, schedule, world, zero) in [("every", EVERY_4, 1, 0), ("stages", STAGES, 2, 3)] {
        let zero = format!("parallel.zero_stage={zero}");
        go(&bench, world, out, &[&common[..], &[schedule, zero.as_str(), "warmup_steps=0"]].concat(), &Resume::None);
        let rates = bench.lines(out, "loss");
        let mut before = tensors(&bench.model.join("model.safetensors"));
        for step in 1..=16 {
            let after = model(&bench, &format!("{out}/checkpoint-{step}"));
            let rate = rates[step as usize - 1]["learning_rate"].as_f64().unwrap();
            for (name, bytes) in &after {
                let starts = starts(name);
                assert_eq!(*bytes != before[name], step > starts, "{out}: step {step}: {name}");
                if step == starts + 1 {
                    let (moved, wanted) = (moved(&before[name], bytes), rate * factor(name));
                    assert!((moved / wanted - 1.0).abs() < 3e-3, "{out}: step {step}: {name}: {moved:e} {wanted:e}");
                }
            }
            before = after;
        }
    }
    assert_equivalent(&bench.steps("stages"), &bench.steps("every"), "stages");
}

#[test]
fn the_ranks_and_stages_agree() {
    let bench = bench();
    go(&bench, 1, "base", &[EVERY_4], &Resume::None);
    let base = bench.steps("base");
    assert!(base[19].0 < base[0].0, "the loss falls: {base:?}");
    for (world, zero, recompute) in
        [(1, 1, "none"), (1, 3, "all"), (2, 0, "all"), (2, 1, "none"), (2, 2, "all"), (2, 3, "2")]
    {
        let out = format!("{world}-{zero}");
        let (zero, recompute) = (format!("parallel.zero_stage={zero}"), format!("parallel.recompute={recompute}"));
        go(&bench, world, &out, &[EVERY_4, &zero, &recompute, "micro_batch_tokens=40"], &Resume::None);
        assert_equivalent(&bench.steps(&out), &base, &out);
    }
}

/// Resumed within a stage and exactly at the end of one; the stage changes after both. With dropout.
#[test]
fn a_resumed_run_is_the_same_to_the_bit() {
    let bench = bench();
    for (world, zero, precision) in [(1, 0, "fp32"), (2, 1, "bf16"), (2, 3, "fp32")] {
        let (zero, kind) = (format!("parallel.zero_stage={zero}"), format!("parallel.precision={precision}"));
        let more = [EVERY_4, &zero, &kind, "save_steps=1", "hidden_dropout_prob=0.1", "micro_batch_tokens=100"];
        let out = format!("whole-{world}-{precision}");
        go(&bench, world, &out, &more, &Resume::None);
        let whole = model(&bench, &format!("{out}/final"));
        for from in [6, 8] {
            let resumed = format!("{out}-{from}");
            let checkpoint = bench.path(&format!("{out}/checkpoint-{from}"));
            go(&bench, world, &resumed, &more, &Resume::Path(checkpoint));
            assert_eq!(bench.steps(&resumed), bench.steps(&out), "{resumed}");
            assert!(model(&bench, &format!("{resumed}/final")) == whole, "{resumed}");
            let state = |run: &str| tensors(&bench.path(run).join("checkpoint-20/optimizer/adamw.safetensors"));
            assert!(state(&resumed) == state(&out), "{resumed}");
        }
    }
}

/// Before the first layer is unfrozen, the run is one in which all of them are frozen.
#[test]
fn the_first_stage_is_a_run_with_the_rest_frozen() {
    let bench = bench();
    go(&bench, 1, "unfrozen", &[EVERY_4, "save_steps=4"], &Resume::None);
    go(&bench, 1, "frozen", &[r#"model.train=["head"]"#, "save_steps=4"], &Resume::None);
    let (unfrozen, frozen) = (bench.steps("unfrozen"), bench.steps("frozen"));
    assert_eq!(unfrozen[..4], frozen[..4]);
    assert_eq!(unfrozen[4].0, frozen[4].0);
    assert_ne!(unfrozen[4].1, frozen[4].1, "the fifth step has the gradient of a layer more");
    assert!(model(&bench, "unfrozen/checkpoint-4") == model(&bench, "frozen/checkpoint-4"));
}

/// A run that is resumed without the schedule, or with another, begins the state of a weight where that is first
/// trained.
#[test]
fn a_resumed_run_may_change_the_schedule() {
    let bench = bench();
    let common = ["save_steps=1", "adam_epsilon=1e-30", "weight_decay=0", "warmup_steps=0"];
    go(&bench, 1, "first", &[&common[..], &[EVERY_4]].concat(), &Resume::None);
    for (out, more, first) in [("all", &[][..], 7), ("later", &["train.unfreeze=5"][..], 11)] {
        let from = Resume::Path(bench.path("first/checkpoint-6"));
        go(&bench, 1, out, &[&common[..], more].concat(), &from);
        let before = match first {
            7 => model(&bench, "first/checkpoint-6"),
            _ => model(&bench, &format!("{out}/checkpoint-{}", first - 1)),
        };
        let after = model(&bench, &format!("{out}/checkpoint-{first}"));
        let rate = bench.lines(out, "loss")[first - 1]["learning_rate"].as_f64().unwrap();
        for (name, bytes) in after.iter().filter(|(name, _)| starts(name) == 8) {
            let moved = moved(&before[name], bytes);
            assert!((moved / rate - 1.0).abs() < 3e-3, "{out}: {name}: {moved:e} {rate:e}");
        }
    }
}
