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
    ("distilbert-tokens", Kind::Tags),
    ("albert-classes", Kind::Classes),
    ("albert-masked", Kind::MaskedLm),
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
