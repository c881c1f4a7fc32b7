//! Which weights are trained, and how fast: patterns, layer ranges, the head, rates per layer and per group.

mod common;

use common::models::{floats, tensors};
use common::reference::folder;
use common::runs::Bench;
use std::collections::BTreeMap;
use trainer::checkpoint::run_dir::Resume;
use trainer::config::Config;
use trainer::models::family::DropoutOverrides;
use trainer::models::{Role, registry};
use trainer::nn::param_builder::ParamSpec;
use trainer::tasks::Head;
use trainer::train::model_loading::Declared;

type Tensors = BTreeMap<String, Vec<u8>>;

fn bench() -> Bench {
    Bench::new("bert-classification")
}

fn go(bench: &Bench, world: usize, out: &str, more: &[&str]) {
    bench.run(world, out, more, &Resume::None).unwrap_or_else(|e| panic!("{out}: {e}"));
}

fn before(bench: &Bench) -> Tensors {
    tensors(&bench.model.join("model.safetensors"))
}

fn after(bench: &Bench, out: &str) -> Tensors {
    tensors(&bench.path(out).join("final/model.safetensors"))
}

fn is_head(name: &str) -> bool {
    name.starts_with("classifier.") || name.starts_with("bert.pooler.")
}

fn of_layer(name: &str, layer: usize) -> bool {
    name.starts_with(&format!("bert.encoder.layer.{layer}."))
}

/// Some settings, and which weights they train.
type Case = (&'static [&'static str], fn(&str) -> bool);

const CASES: [Case; 5] = [
    (&[r#"model.train=["head"]"#], is_head),
    (&[r#"model.train=["*.bias", "head"]"#], |name| name.ends_with(".bias") || is_head(name)),
    (&[r#"model.train=["layers.1", "head"]"#], |name| of_layer(name, 1) || is_head(name)),
    (&[r#"model.train=["layers.0-1"]"#, r#"model.freeze=["*.LayerNorm.*", "layers.1"]"#], |name| {
        of_layer(name, 0) && !name.contains("LayerNorm")
    }),
    (&[r#"model.freeze=["layers.0-1", "head"]"#], |name| name.starts_with("bert.embeddings.")),
];

#[test]
fn what_is_selected_is_trained_and_nothing_else() {
    let bench = bench();
    let before = before(&bench);
    for (case, (settings, trained)) in CASES.iter().enumerate() {
        for (world, zero) in [(1, 0), (2, 3)] {
            let out = format!("{case}-{world}");
            let zero = format!("parallel.zero_stage={zero}");
            go(&bench, world, &out, &[settings, &[zero.as_str(), "max_steps=4"][..]].concat());
            for (name, bytes) in after(&bench, &out) {
                assert_eq!(bytes != before[&name], trained(&name), "{settings:?} on {world} ranks: {name}");
            }
        }
    }
}

/// `model.train` and `model.freeze` are two ways to say the same.
#[test]
fn training_the_top_is_freezing_the_rest() {
    let bench = bench();
    go(&bench, 1, "train", &[r#"model.train=["layers.1", "head"]"#]);
    go(&bench, 1, "freeze", &[r#"model.freeze=["bert.embeddings.*", "layers.0"]"#]);
    assert_eq!(bench.steps("train"), bench.steps("freeze"));
    assert!(after(&bench, "train") == after(&bench, "freeze"));
}

/// AdamW's first update with an epsilon of almost 0 is the learning rate in every element that has a gradient, after
/// decay by rate * weight decay: so it tells both. The table is computed by hand for two layers.
#[test]
fn every_weight_has_its_rate_and_decay() {
    let bench = bench();
    let before = before(&bench);
    let step = ["max_steps=1", "warmup_steps=0", "learning_rate=1e-3", "adam_epsilon=1e-30", "weight_decay=2"];
    let groups = r#"train.groups=[
        {params=["classifier.*"], learning_rate=5e-3, weight_decay=1},
        {params=["bert.encoder.layer.1.output.*"], weight_decay=0},
        {params=["bert.embeddings.position_embeddings.*"], learning_rate=2e-3},
    ]"#
    .replace('\n', " ");
    let table = |name: &str| -> (f64, f64) {
        let decay = if name.ends_with(".bias") || name.contains("LayerNorm") { 0.0 } else { 2.0 };
        match name {
            "classifier.weight" => (5e-3, 1.0),
            "classifier.bias" => (5e-3, 0.0),
            "bert.embeddings.position_embeddings.weight" => (2e-3, decay),
            _ if name.starts_with("bert.encoder.layer.1.output.") => (0.5e-3, 0.0),
            _ if of_layer(name, 1) => (0.5e-3, decay),
            _ if of_layer(name, 0) => (0.25e-3, decay),
            _ if name.starts_with("bert.embeddings.") => (0.125e-3, decay),
            _ => (1e-3, decay),
        }
    };
    for (world, zero) in [(1, 0), (2, 1), (2, 3)] {
        let (out, zero) = (format!("{world}-{zero}"), format!("parallel.zero_stage={zero}"));
        go(&bench, world, &out, &[&step[..], &["train.layer_lr_decay=0.5", &groups, &zero]].concat());
        // The step line has the rate of the schedule.
        assert_eq!(bench.lines(&out, "loss")[0]["learning_rate"], 1e-3);
        for (name, bytes) in after(&bench, &out) {
            let (rate, decay) = table(&name);
            let moved = floats(&before[&name]).into_iter().zip(floats(&bytes)).map(|(old, new)| {
                let decayed = f64::from(old) * (1.0 - rate * decay);
                (f64::from(new) - decayed).abs()
            });
            let moved: Vec<f64> = moved.collect();
            let most = moved.iter().copied().fold(0.0, f64::max);
            // A float of about 1 (a norm's scale) is rounded to 6e-8.
            assert!((most / rate - 1.0).abs() < 2e-3, "{out}: {name}: {most:e} for {rate:e}");
            let told = moved.iter().filter(|&&m| (m / rate - 1.0).abs() < 2e-3).count();
            let silent = moved.iter().filter(|&&m| m < 1e-6).count();
            assert_eq!(told + silent, moved.len(), "{out}: {name}: {rate:e} {decay}");
        }
    }
}

/// The weights of a model as a run trains them.
fn specs(case: &str, head: &Head, more: &[&str]) -> Vec<ParamSpec> {
    let folder = folder(&format!("cases/{case}"));
    let minimal = ["output_dir=o", "model.path=m", "task.kind=causal-lm", "data.train=t"];
    let words: Vec<String> = minimal.iter().chain(more).map(|word| (*word).to_owned()).collect();
    let config = Config::load(None, &words).unwrap();
    let json = registry::read_config(&folder).unwrap();
    let declared = Declared::read(&folder, json, DropoutOverrides::default(), head.role()).unwrap();
    declared.with_head(head).for_training(&config, 8).unwrap_or_else(|e| panic!("{case}: {e}")).specs
}

/// In every family the number in the Hugging Face name is that of our layer, and counts from the top.
#[test]
fn rates_decay_by_layer_in_every_family() {
    let classes = || Head::Classes(["a", "b", "c"].map(str::to_owned).to_vec());
    let mut seen = 0;
    for (case, head) in [
        ("roberta-classes", classes()),
        ("distilbert-classes", classes()),
        ("modernbert-classes", classes()),
        ("xlnet-classes", classes()),
        ("gpt2-classes", classes()),
        ("gpt2-causal", Head::CausalLm),
        ("llama-causal", Head::CausalLm),
        ("mistral-causal", Head::CausalLm),
        ("qwen2-causal", Head::CausalLm),
        ("qwen3-causal", Head::CausalLm),
        ("t5-gated-gelu", Head::Seq2Seq),
        ("t5-tied-relu", Head::Seq2Seq),
    ] {
        let specs = specs(case, &head, &["layer_lr_decay=0.5"]);
        // `layer.3.mlp.up.weight`, `encoder.3.mlp.up.weight`; T5's distances belong to the first layer of their stack.
        let place = |name: &str| -> Option<(String, i32)> {
            let (stack, rest) = name.split_once('.')?;
            let number = if rest == "bias.weight" { 0 } else { rest.split('.').next()?.parse().ok()? };
            Some((stack.to_owned(), number))
        };
        let layers = |stack: &str| {
            let of = specs.iter().filter_map(|spec| place(&spec.name)).filter(|(of, _)| of == stack);
            1 + of.map(|(_, number)| number).max().unwrap()
        };
        let most = specs.iter().filter_map(|spec| place(&spec.name)).map(|(stack, _)| layers(&stack)).max().unwrap();
        for spec in &specs {
            let steps = match place(&spec.name) {
                Some((stack, number)) => layers(&stack) - number,
                None if spec.block == 0 => most + 1,
                None => 0,
            };
            assert_eq!(spec.rate, 0.5f64.powi(steps), "{case}: {}", spec.name);
            seen += usize::from(steps > 0);
        }
    }
    assert!(seen > 100, "{seen}");
    // ALBERT's layers are one.
    let specs = specs("albert-classes", &classes(), &["layer_lr_decay=0.5"]);
    let rate = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap_or_else(|| panic!("no {name}")).rate;
    assert_eq!([rate("layer.0.mlp.up.weight"), rate("classifier.weight")], [0.5, 1.0]);
    assert_eq!(rate("embeddings.words.weight"), 0.25);
}

/// The head is what a pretrained file may lack.
#[test]
fn the_head_of_each_kind_of_model() {
    let trained = |case: &str, head: &Head| -> Vec<String> {
        let specs = specs(case, head, &["model.train=['head']"]);
        specs.into_iter().filter(|spec| spec.trainable).map(|spec| spec.name).collect()
    };
    let classes = Head::Classes(["a", "b", "c"].map(str::to_owned).to_vec());
    assert_eq!(classes.role(), Role::SequenceClassification);
    let pooled = ["pooler.weight", "pooler.bias", "classifier.weight", "classifier.bias"];
    assert_eq!(trained("roberta-classes", &classes), pooled);
    assert_eq!(trained("gpt2-classes", &classes), ["classifier.weight"]);
    assert_eq!(trained("gpt2-untied", &Head::CausalLm), ["lm_head.weight"]);
    assert_eq!(trained("t5-gated-gelu", &Head::Seq2Seq), ["lm_head.weight"]);
}
