//! One task of every family, trained: however the work is split, the same steps.

mod common;

use common::cases::{CaseBench, Kind};
use common::runs::assert_equivalent;
use trainer::checkpoint::run_dir::Resume;

/// A case of each family, and what it is trained for.
const RUNS: &[(&str, Kind)] = &[
    ("bert-pretraining", Kind::MaskedLm),
    ("bert-tokens", Kind::Tags),
    ("roberta-masked", Kind::MaskedLm),
    ("bert-choice", Kind::Choices),
    ("distilbert-tokens", Kind::Tags),
    ("albert-classes", Kind::Classes),
    ("albert-masked", Kind::MaskedLm),
    ("electra-classes", Kind::Classes),
    ("modernbert-masked", Kind::MaskedLm),
    ("modernbert-tokens-biased", Kind::Tags),
    ("xlnet-classes", Kind::Classes),
    ("gpt2-causal", Kind::CausalLm),
    ("llama-causal", Kind::CausalLm),
    ("qwen2-tokens", Kind::Tags),
    ("mistral-answers", Kind::Answers),
    ("t5-tied-relu", Kind::Seq2Seq),
    ("t5-gated-gelu", Kind::Seq2Seq),
];

/// Worlds 1 and 2, ZeRO 0 and 3, with recomputation and without, about two micro-batches a rank, dropout 0: losses within
/// 1e-6, gradient norms within 1e-4.
#[test]
fn every_split_takes_the_same_steps() {
    for &(case, kind) in RUNS {
        let bench = CaseBench::new(case, kind);
        let run = |world: usize, out: &str, more: &[&str]| {
            bench.run(world, out, more, &Resume::None).unwrap_or_else(|e| panic!("{case}, {out}: {e}"));
            bench.steps(out)
        };
        let base = run(1, "base", &[]);
        let mean = |steps: &[(f64, f64)]| steps.iter().map(|step| step.0).sum::<f64>() / steps.len() as f64;
        // What is hidden is drawn anew in every step, and 20 are too few to tell.
        let falls = kind == Kind::MaskedLm || mean(&base[15..]) < mean(&base[..5]);
        assert!(base.len() == 20 && falls, "{case}: the loss falls: {base:?}");
        for world in [1, 2] {
            for zero in ["0", "3"] {
                for recompute in ["none", "all"] {
                    let out = format!("world-{world}-zero-{zero}-recompute-{recompute}");
                    let zero = format!("parallel.zero_stage={zero}");
                    let recompute = format!("parallel.recompute={recompute}");
                    let steps = run(world, &out, &[&zero, &recompute, "micro_batch_tokens=70"]);
                    assert_equivalent(&steps, &base, &format!("{case}, {out}"));
                }
            }
        }
    }
}

/// On the CPU nothing is copied, but the calls count as on a GPU. With 1 token at a time each example is a micro-batch.
#[test]
fn a_micro_batch_is_one_upload_and_a_step_one_download() {
    for &(case, kind) in RUNS {
        let bench = CaseBench::new(case, kind);
        for (world, zero, tokens, uploads) in [(1, 0, 100_000, Some(1)), (1, 0, 1, Some(4)), (2, 3, 70, None)] {
            let out = format!("world-{world}-tokens-{tokens}");
            let more = [
                &format!("micro_batch_tokens={tokens}"),
                &format!("parallel.zero_stage={zero}"),
                "max_steps=3",
                "global_batch_size=4",
                "eval_strategy=no",
                "parallel.recompute=all",
            ];
            bench.run(world, &out, &more, &Resume::None).unwrap_or_else(|e| panic!("{case}, {out}: {e}"));
            let steps = bench.lines(&out, "host_to_device_copies");
            assert_eq!(steps.len(), 3, "{case}, {out}");
            for step in steps {
                let [up, down] =
                    ["host_to_device_copies", "device_to_host_copies"].map(|key| step[key].as_u64().unwrap());
                // The first step also uploads what stays: frequencies of rotary embeddings, two tables of distances of T5.
                let first = if step["step"] == 1 { 2 } else { 0 };
                let right = |uploads| (uploads..=uploads + first).contains(&up);
                assert!(up > 0 && uploads.is_none_or(right), "{case}, {out}: {up} uploads: {step}");
                assert!(down <= 1, "{case}, {out}: {down} downloads: {step}");
            }
        }
    }
}
