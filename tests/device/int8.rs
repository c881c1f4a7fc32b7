//! Int8 weights, on CPUs: outputs near those of fp32, whichever command asks for them, and refusals.

use crate::common::cases::{CaseBench, Kind};
use crate::common::device::device;
use crate::common::process::{run, trainer};
use crate::common::reference::{Reference, alone, folder, infer_all};
use crate::common::runs::Bench;
use serde_json::Value;
use std::fs;
use tch::{Device, Kind as Dtype};
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::parallel::Zero;
use trainer::train::model_loading::{Declared, LoadOptions, Source};

/// Families with the same layers, shared ones, gated ones, and relative attention; summaries, tokens and answers.
const CASES: [&str; 8] = [
    "bert-multi-label",
    "bert-masked",
    "roberta-classes",
    "distilbert-answers",
    "albert-classes",
    "electra-tokens",
    "xlnet-classes",
    "llama-classes",
];

#[test]
fn logits_are_near_those_of_fp32() {
    if device() != Device::Cpu {
        return;
    }
    for case in CASES {
        let reference = Reference::open(&format!("cases/{case}"));
        let head = reference.head();
        let config = registry::read_config(&reference.folder).unwrap();
        let declared = Declared::read(&reference.folder, config, DropoutOverrides::default(), head.role()).unwrap();
        let shaped = declared.with_head(&head).with_int8();
        let kept: Vec<bool> = shaped.specs.iter().map(|spec| spec.int8).collect();
        let holding =
            LoadOptions { kind: Dtype::Float, zero: Zero::ALL[0], trains: false.into(), seed: 0, from: Source::Folder };
        let mut loaded = shaped.load(&alone(), &holding).unwrap();
        let params = &loaded.params;
        for (id, kept) in params.ids().zip(kept) {
            assert_eq!(params.int8(id).is_some(), kept, "{case}: {}", params.spec(id).name);
            let is_layer = params.spec(id).linear.is_some() && !params.spec(id).newly_initialized;
            assert_eq!(is_layer, kept, "{case}: {}", params.spec(id).name);
        }
        for (i, logits) in infer_all(&mut loaded, &reference.batch()).iter().enumerate() {
            let name = if i == 0 { "logits".into() } else { format!("logits.{i}") };
            let wanted = reference.tensor(&name);
            let error = (logits - &wanted).norm().double_value(&[]) / wanted.norm().double_value(&[]);
            // Weights are off by up to 1/254 of the largest of their row, activations by 1/510 of their range.
            assert!((1e-6..0.03).contains(&error), "{case}, {name}: {error}");
        }
    }
}

#[test]
fn predictions_and_metrics_are_near_those_of_fp32() {
    if device() != Device::Cpu {
        return;
    }
    let bench = Bench::new("bert-classification");
    let model = bench.model.to_str().unwrap();
    let predicted = |weights: &str| -> Vec<Vec<f64>> {
        let args = ["predict", "--model", model, "--input", "eval.jsonl", "--output", "out.jsonl", "--scores"];
        run(trainer(&bench).args(args).args(["--weights", weights])).expect(0);
        let text = fs::read_to_string(bench.path("out.jsonl")).unwrap();
        let logits = |line: &str| serde_json::from_str::<Value>(line).unwrap()["logits"].take();
        text.lines().map(|line| serde_json::from_value(logits(line)).unwrap()).collect()
    };
    let [whole, int8] = ["fp32", "int8"].map(predicted).map(|rows| rows.concat());
    let differences: Vec<f64> = whole.iter().zip(&int8).map(|(a, b)| (a - b).abs()).collect();
    let [largest, error] = [&whole, &differences].map(|all| all.iter().fold(0.0_f64, |most, x| most.max(x.abs())));
    assert!(whole.len() == int8.len() && error > 1e-6 && error < 0.05 * largest, "{error} of {largest}");
    let loss = |weights: &str| {
        let args = ["evaluate", "--model", model, "--data", "eval.jsonl", "--json", "--weights", weights];
        let found: Value = serde_json::from_str(&run(trainer(&bench).args(args)).expect(0).stdout).unwrap();
        found["eval_loss"].as_f64().unwrap()
    };
    let [whole, int8] = ["fp32", "int8"].map(loss);
    assert!(whole != int8 && (whole - int8).abs() < 0.02 * whole, "{int8} instead of {whole}");
}

#[test]
fn int8_is_refused_where_it_is_not_supported() {
    let bench = CaseBench::new("gpt2-causal", Kind::CausalLm);
    let adapter = folder("lora/bert");
    let base = folder("bert-classification");
    let config: Value =
        serde_json::from_str(&fs::read_to_string(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("bert-classification"), "{config}");
    let [adapter, base] = [adapter, base].map(|path| path.display().to_string());
    let serve = |model| vec!["serve", model, "--port", "0"];
    let predict = vec!["predict", "--model", "model", "--text", "ac"];
    let of_adapter = [serve(adapter.as_str()), vec!["--base-model", base.as_str()]].concat();
    for (command, weights, says) in [
        (serve("model"), "int8", "causal-lm models generate text, which is supported in fp32 only"),
        (predict, "int8", "--weights int8: causal-lm models generate text"),
        (of_adapter, "int8", "the model is an adapter: merge it first (trainer merge"),
        (serve("model"), "int4", "'int4'"),
    ] {
        let ended = run(trainer(&bench).args(&command).args(["--weights", weights])).expect(2);
        let says = if device() == Device::Cpu || weights == "int4" { says } else { "int8 weights are for CPUs" };
        assert!(ended.stderr.contains(says), "{command:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.matches("error").count(), 1, "{}", ended.stderr);
    }
}
