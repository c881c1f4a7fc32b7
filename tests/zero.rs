//! Sharding, accumulation and recomputation change where numbers live and not what they are.

mod common;

use common::runs::{Bench, assert_equivalent};
use trainer::checkpoint::run_dir::Resume;

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];

/// Runs with dropout 0 and more settings.
fn run(bench: &Bench, world: usize, out: &str, more: &[String], resume: &Resume) {
    let settings: Vec<&str> = NO_DROPOUT.into_iter().chain(more.iter().map(String::as_str)).collect();
    bench.run(world, out, &settings, resume).unwrap_or_else(|e| panic!("{out}: {e}"));
}

/// Tokens a micro-batch at which a rank has about three of them: a global batch is about 160 tokens.
fn three(world: usize) -> usize {
    160 / world / 3 + 6
}

/// The whole table: worlds x ZeRO stages x accumulation x recomputation, 20 steps, dropout 0, against one plain rank.
#[test]
fn every_split_takes_the_same_steps() {
    let bench = Bench::new("bert-classification");
    run(&bench, 1, "base", &[], &Resume::None);
    let base = bench.steps("base");
    assert!(base.len() == 20 && base[19].0 < base[0].0, "the loss falls: {base:?}");
    for world in [1, 2, 3, 4] {
        for zero in 0..=3 {
            for tokens in [4096, three(world)] {
                for recompute in ["none", "all"] {
                    let what =
                        format!("world {world}, ZeRO {zero}, {tokens} tokens a micro-batch, recompute {recompute}");
                    let out = what.replace([' ', ','], "-");
                    let settings = [
                        format!("parallel.zero_stage={zero}"),
                        format!("micro_batch_tokens={tokens}"),
                        format!("parallel.recompute={recompute}"),
                        "save_strategy=no".into(),
                    ];
                    run(&bench, world, &out, &settings, &Resume::None);
                    assert_equivalent(&bench.steps(&out), &base, &what);
                    let last = |out: &str| bench.lines(out, "eval_loss").pop().unwrap()["eval_loss"].as_f64().unwrap();
                    let difference = (last(&out) / last("base") - 1.0).abs();
                    assert!(difference < 1e-5, "{what}: eval_loss differs by {difference:e}");
                }
            }
        }
    }
}

/// With dropout on: what runs again draws the same masks, so that losses, norms and the model are the same bits.
#[test]
fn recomputation_is_bit_equal() {
    let bench = Bench::new("bert-classification");
    let dropout = ["hidden_dropout_prob=0.1", "attention_probs_dropout_prob=0.1", "classifier_dropout=0.1"];
    for (world, zero) in [(1, 0), (2, 0), (2, 3)] {
        let mut runs = Vec::new();
        for recompute in ["none", "all", "2"] {
            let (zero, kept) = (format!("parallel.zero_stage={zero}"), format!("parallel.recompute={recompute}"));
            let out = format!("{world}-{zero}-{recompute}");
            let more = [&zero, &kept, "micro_batch_tokens=60", "save_strategy=no"];
            let settings: Vec<&str> = dropout.into_iter().chain(more).collect();
            bench.run(world, &out, &settings, &Resume::None).unwrap();
            let model = std::fs::read(bench.path(&out).join("final/model.safetensors")).unwrap();
            runs.push((bench.steps(&out), model));
        }
        for (i, run) in runs.iter().enumerate() {
            assert_eq!(run.0, runs[0].0, "world {world}, ZeRO {zero}: steps of run {i}");
            assert!(run.1 == runs[0].1, "world {world}, ZeRO {zero}: model of run {i}");
        }
    }
}

/// A checkpoint knows no world and no ZeRO stage.
#[test]
fn a_checkpoint_is_taken_up_in_any_layout() {
    let bench = Bench::new("bert-classification");
    run(&bench, 1, "base", &[], &Resume::None);
    let base = bench.steps("base");
    let settings = |zero: u8| vec![format!("parallel.zero_stage={zero}"), "save_steps=10".into()];
    run(&bench, 4, "whole", &settings(3), &Resume::None);
    assert_equivalent(&bench.steps("whole"), &base, "ZeRO 3, world 4");
    let from = Resume::Path(bench.path("whole/checkpoint-10"));
    for (world, zero) in [(2, 1), (1, 0), (3, 2), (4, 3), (2, 3)] {
        let out = format!("on-{world}-{zero}");
        run(&bench, world, &out, &settings(zero), &from);
        assert_equivalent(&bench.steps(&out), &base, &format!("ZeRO 3 world 4, resumed at ZeRO {zero} world {world}"));
    }
    // And the file is the same, whoever wrote it.
    let model = |out: &str| std::fs::read(bench.path(out).join("final/model.safetensors")).unwrap();
    assert_eq!(model("whole").len(), model("base").len());
    assert!(model("whole") == model("on-4-3"), "resumed at the same world and stage: the same bits");
}

/// The same world and stage, dropout on, half precision too: the remaining losses are bit-equal.
#[test]
fn resume_is_bit_equal_at_every_stage() {
    let bench = Bench::new("bert-classification");
    for (zero, precision) in [(1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (2, "bf16"), (3, "fp16")] {
        let (stage, kind) = (format!("parallel.zero_stage={zero}"), format!("parallel.precision={precision}"));
        let more = ["hidden_dropout_prob=0.1", "micro_batch_tokens=60", "save_steps=7", &stage, &kind];
        let (whole, cut) = (format!("whole-{zero}-{precision}"), format!("cut-{zero}-{precision}"));
        bench.run(2, &whole, &more, &Resume::None).unwrap();
        bench.run(2, &cut, &more, &Resume::Path(bench.path(&whole).join("checkpoint-7"))).unwrap();
        assert_eq!(bench.steps(&cut), bench.steps(&whole), "ZeRO {zero}, {precision}: resumed at step 7");
        let model = |out: &str| std::fs::read(bench.path(out).join("final/model.safetensors")).unwrap();
        assert!(model(&cut) == model(&whole), "ZeRO {zero}, {precision}: the final models differ");
    }
}
