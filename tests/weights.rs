//! Which weights a run starts from, and which of them it trains.

mod common;

use common::models::{floats, tensors, without_weights};
use common::process::{run, trainer};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::train;
use std::collections::BTreeMap;
use trainer::checkpoint::run_dir::Resume;

const EARLY: &str = r#"model.freeze=["bert.embeddings.*", "bert.encoder.layer.0.*"]"#;
const LATE: &str = r#"model.freeze=["bert.encoder.layer.1.*", "bert.pooler.*", "classifier.*"]"#;
const HERE_AND_THERE: &str = r#"model.freeze=["*.bias", "bert.embeddings.word_embeddings.weight"]"#;

/// Some that are frozen: by the name in the file, and by ours in the optimizer's.
struct Frozen {
    setting: &'static str,
    holds: fn(&str) -> bool,
    holds_native: fn(&str) -> bool,
}

const FROZEN: [Frozen; 3] = [
    Frozen {
        setting: EARLY,
        holds: is_early,
        holds_native: |name| name.starts_with("embeddings.") || name.starts_with("layer.0."),
    },
    Frozen {
        setting: LATE,
        holds: |name| !is_early(name),
        holds_native: |name| !name.starts_with("embeddings.") && !name.starts_with("layer.0."),
    },
    Frozen {
        setting: HERE_AND_THERE,
        holds: |name| name.ends_with(".bias") || name == "bert.embeddings.word_embeddings.weight",
        holds_native: |name| name.ends_with(".bias") || name == "embeddings.words.weight",
    },
];

fn is_embedding(name: &str) -> bool {
    name.starts_with("bert.embeddings.")
}

fn is_early(name: &str) -> bool {
    is_embedding(name) || name.starts_with("bert.encoder.layer.0.")
}

fn bench() -> Bench {
    Bench::new("bert-classification")
}

fn go(bench: &Bench, world: usize, out: &str, more: &[&str], resume: &Resume) {
    bench.run(world, out, more, resume).unwrap_or_else(|e| panic!("{out}: {e}"));
}

fn model(bench: &Bench, folder: &str) -> BTreeMap<String, Vec<u8>> {
    tensors(&bench.path(folder).join("model.safetensors"))
}

/// Asserts which tensors of two models are the same bits.
fn assert_moved(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>, frozen: fn(&str) -> bool, what: &str) {
    assert!(a.keys().eq(b.keys()), "{what}");
    assert!(a.keys().any(|name| frozen(name)) && !a.keys().all(|name| frozen(name)), "{what}");
    for (name, bytes) in a {
        assert_eq!(*bytes == b[name], frozen(name), "{what}: {name} frozen: {}", frozen(name));
    }
}

/// At every stage, with accumulation and recomputation: the rest is trained as on one rank; frozen weights keep their
/// bits and have no state.
#[test]
fn frozen_weights_stay_as_they_are() {
    let bench = bench();
    let before = tensors(&bench.model.join("model.safetensors"));
    for Frozen { setting, holds, holds_native } in FROZEN {
        go(&bench, 1, &format!("{setting}-base"), &[setting], &Resume::None);
        let base = bench.steps(&format!("{setting}-base"));
        assert!(base[19].0 < base[0].0, "{setting}: the loss falls: {base:?}");
        for (world, zero, recompute) in [(1, 3, "all"), (2, 0, "none"), (2, 1, "none"), (2, 2, "all"), (2, 3, "none")] {
            let what = format!("{setting}-{world}-{zero}");
            let (zero, kept) = (format!("parallel.zero_stage={zero}"), format!("parallel.recompute={recompute}"));
            go(&bench, world, &what, &[setting, &zero, &kept, "micro_batch_tokens=40"], &Resume::None);
            assert_equivalent(&bench.steps(&what), &base, &what);
            assert_moved(&before, &model(&bench, &format!("{what}/final")), holds, &what);
            let state = tensors(&bench.path(&what).join("checkpoint-20/optimizer/adamw.safetensors"));
            let names = |moment: &str| state.keys().filter_map(|n| n.strip_prefix(moment)).collect::<Vec<_>>();
            assert_eq!(names("exp_avg."), names("exp_avg_sq."), "{what}");
            assert_eq!(state.len(), 2 * names("exp_avg.").len(), "{what}");
            assert!(!names("exp_avg.").iter().any(|name| holds_native(name)), "{what}: {:?}", state.keys());
        }
    }
}

/// The gradient of the trained part is that part of the whole gradient: squares of norms add up.
#[test]
fn a_frozen_part_has_no_gradient_and_the_rest_has_its_own() {
    let bench = bench();
    let first = [("all", "model.freeze=[]"), ("late", EARLY), ("early", LATE)].map(|(out, setting)| {
        go(&bench, 1, out, &[setting, "max_steps=1"], &Resume::None);
        bench.steps(out)[0]
    });
    let [all, late, early] = first;
    assert!(all.0 == late.0 && all.0 == early.0, "the same loss: {first:?}");
    let sum = (late.1.powi(2) + early.1.powi(2)).sqrt();
    assert!((sum / all.1 - 1.0).abs() < 1e-6 && late.1 > 0.0 && early.1 > 0.0, "{first:?}");
}

#[test]
fn what_is_frozen_takes_no_memory_for_training() {
    let bench = bench();
    let measured = [("plain", "model.freeze=[]"), ("frozen", EARLY)].map(|(out, setting)| {
        let ended = run(trainer(&bench).args(train(&bench, out, &[setting]))).expect(0);
        assert_eq!(ended.stderr.contains(" of them frozen)"), out == "frozen", "{}", ended.text());
        let summary = bench.summary(out);
        move |list: &str, of: &str| summary[list][0][of].as_u64().unwrap_or_else(|| panic!("{list}.{of}: {summary}"))
    });
    let [plain, frozen] = measured;
    let trained: usize =
        model(&bench, "plain/final").iter().filter(|(name, _)| !is_early(name)).map(|(_, bytes)| bytes.len() / 4).sum();
    let trained = trained as u64;
    let held = |of: &str, bytes: u64| {
        let found = frozen("persistent_bytes", of);
        assert!((bytes * trained..bytes * trained * 103 / 100).contains(&found), "{of}: {found} for {trained} trained");
    };
    held("gradients", 4);
    held("optimizer", 8);
    let weights = |of: &dyn Fn(&str, &str) -> u64| of("persistent_bytes", "weights");
    assert!(
        weights(&frozen).abs_diff(weights(&plain)) < weights(&plain) / 50,
        "{} {}",
        weights(&frozen),
        weights(&plain)
    );
    // Backward ends where nothing before is trained: the first blocks keep nothing for it.
    let activations = |of: &dyn Fn(&str, &str) -> u64| of("peak_bytes", "activations");
    assert!(activations(&frozen) < activations(&plain) * 3 / 4, "{} {}", activations(&frozen), activations(&plain));
}

/// A resumed run may train more, or less, than the run before it.
#[test]
fn a_resumed_run_may_thaw_and_freeze() {
    let bench = bench();
    let thawed = r#"model.freeze=["bert.embeddings.*"]"#;
    for precision in ["fp32", "bf16"] {
        let kind = format!("parallel.precision={precision}");
        let first = format!("first-{precision}");
        let more = [EARLY, "parallel.zero_stage=3", "save_steps=5", &kind];
        go(&bench, 2, &first, &more, &Resume::None);
        let from = bench.path(&first).join("checkpoint-10");
        // Norms and biases in bf16 stay in a few steps: what moves little is in the masters.
        let layers = |mut model: BTreeMap<String, Vec<u8>>| {
            model.retain(|name, _| precision == "fp32" || name.ends_with("dense.weight") || is_embedding(name));
            model
        };
        let after = |out: &str| layers(model(&bench, &format!("{out}/final")));
        let before = layers(model(&bench, &format!("{first}/checkpoint-10")));
        for (world, zero) in [(2, 3), (1, 0), (2, 1)] {
            let out = format!("thawed-{precision}-{world}-{zero}");
            let zero = format!("parallel.zero_stage={zero}");
            go(&bench, world, &out, &[thawed, &zero, "save_steps=5", &kind], &Resume::Path(from.clone()));
            assert_moved(&before, &after(&out), is_embedding, &out);
            assert_eq!(bench.steps(&out)[..10], bench.steps(&first)[..10], "{out}");
            if precision == "fp32" {
                assert_equivalent(&bench.steps(&out), &bench.steps("thawed-fp32-2-3"), &out);
            }
        }
        let (out, from) = (format!("frozen-{precision}"), format!("thawed-{precision}-1-0/checkpoint-15"));
        go(&bench, 2, &out, &[EARLY, "parallel.zero_stage=2", &kind], &Resume::Path(bench.path(&from)));
        assert_moved(&layers(model(&bench, &from)), &after(&out), is_early, &out);
    }
    let from = bench.path("first-fp32/checkpoint-10").display().to_string();
    let ended = run(trainer(&bench).args(train(&bench, "told", &[thawed])).args(["--resume", &from])).expect(0);
    let told =
        r#"changed   model.freeze = ["bert.embeddings.*"] (was ["bert.embeddings.*", "bert.encoder.layer.0.*"])"#;
    assert!(ended.stderr.contains(told), "{}", ended.text());
}

/// A bench with `config.json` and a tokenizer, and no weights.
fn without() -> Bench {
    let mut bench = bench();
    bench.model = without_weights(&bench, |config| {
        config["initializer_range"] = 0.05.into();
        config["num_hidden_layers"] = 4.into();
    });
    bench
}

const RANDOM: &str = "model.init=random";

/// The weights that a run starts from: its one step has the learning rate 0.
fn drawn(bench: &Bench, world: usize, out: &str, more: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let more = [&[RANDOM, "max_steps=1", "warmup_steps=1", "save_strategy=no"], more].concat();
    go(bench, world, out, &more, &Resume::None);
    model(bench, &format!("{out}/final"))
}

#[test]
fn random_weights_follow_from_the_seed_alone() {
    let bench = without();
    for precision in ["fp32", "bf16"] {
        let kind = format!("parallel.precision={precision}");
        let base = drawn(&bench, 1, &format!("base-{precision}"), &[&kind]);
        for (world, zero) in [(2, 0), (2, 1), (3, 2), (2, 3), (4, 3)] {
            let what = format!("{precision}-{world}-{zero}");
            let zero = format!("parallel.zero_stage={zero}");
            assert!(drawn(&bench, world, &what, &[&kind, &zero]) == base, "{what}");
            let (loss, wanted) = (bench.steps(&what)[0].0, bench.steps(&format!("base-{precision}"))[0].0);
            // A half's sums in another order are rounded otherwise.
            let limit = if precision == "fp32" { 1e-6 } else { 1e-3 };
            assert!((loss / wanted - 1.0).abs() < limit, "{what}: {loss} {wanted}");
        }
    }
    let (base, other) = (model(&bench, "base-fp32/final"), drawn(&bench, 1, "other", &["seed=43"]));
    for (name, bytes) in base {
        let is_constant = name.ends_with(".bias") || name.contains("LayerNorm");
        assert_eq!(other[&name] == bytes, is_constant, "{name}");
    }
}

/// As `transformers` draws BERT: normal with `initializer_range`, norms of one, biases of zero.
#[test]
fn random_weights_have_the_distribution_of_the_configuration() {
    let bench = without();
    let mut starts = Vec::new();
    for (name, bytes) in drawn(&bench, 1, "run", &[]) {
        let values = floats(&bytes);
        if name.ends_with(".bias") || name.contains("LayerNorm") {
            let wanted = if name.ends_with(".bias") { 0.0 } else { 1.0 };
            assert!(values.iter().all(|&v| v == wanted), "{name}");
            continue;
        }
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let std = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        // Five standard errors.
        assert!(mean.abs() < 5.0 * 0.05 / n.sqrt(), "{name}: mean {mean}");
        assert!((std / 0.05 - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{name}: std {std}");
        starts.push(bytes[..64].to_vec());
    }
    let tensors = starts.len();
    starts.sort();
    starts.dedup();
    assert!(starts.len() == tensors && tensors > 20, "two of {tensors} tensors are alike");
}

#[test]
fn a_random_model_learns_and_is_resumed() {
    let bench = without();
    let more = [RANDOM, "max_steps=80", "save_steps=40", "learning_rate=3e-3", "hidden_dropout_prob=0.1"];
    let ended = run(trainer(&bench).args(train(&bench, "run", &more))).expect(0);
    assert!(ended.stderr.contains(" parameters, newly initialized)"), "{}", ended.text());
    let steps = bench.steps("run");
    let mean = |steps: &[(f64, f64)]| steps.iter().map(|s| s.0).sum::<f64>() / steps.len() as f64;
    assert!(mean(&steps[70..]) < 0.9 * mean(&steps[..5]), "{steps:?}");
    go(&bench, 1, "resumed", &more, &Resume::Path(bench.path("run/checkpoint-40")));
    assert_eq!(bench.steps("resumed"), steps);
    // The result is a model like any other.
    let path = format!("model.path={}", bench.path("run/final").display());
    go(&bench, 1, "next", &[&path, "max_steps=1"], &Resume::None);
    assert!(bench.steps("next")[0].0 < mean(&steps[..5]));
}
