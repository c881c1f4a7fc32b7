//! Runs with adapters: what they train, write and resume; their folders in every command.

mod common;

use common::models::tensors;
use common::process::{run, trainer};
use common::reference::folder;
use common::runs::{Bench, assert_equivalent};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tch::{Kind, Tensor};
use trainer::checkpoint::run_dir::Resume;
use trainer::checkpoint::tensors::TensorFile;

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
const DORA: [&str; 5] = ["lora.r=4", "lora.lora_alpha=8", "lora.use_dora=true", "learning_rate=1e-2", "max_steps=8"];

fn train(bench: &Bench, world: usize, out: &str, more: &[&str]) {
    let settings: Vec<&str> = DORA.into_iter().chain(more.iter().copied()).collect();
    bench.run(world, out, &settings, &Resume::None).unwrap_or_else(|e| panic!("{out}: {e}"));
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn eval_loss(bench: &Bench, out: &str) -> f64 {
    bench.lines(out, "eval_loss").pop().unwrap()["eval_loss"].as_f64().unwrap()
}

/// At every ZeRO stage two ranks take the steps of one; the loss falls; activation checkpointing changes nothing.
#[test]
fn ranks_and_stages_take_the_same_steps() {
    let bench = Bench::new("bert-classification");
    let fixed = |more: &[&'static str]| [&NO_DROPOUT[..], &["save_strategy=no"], more].concat();
    train(&bench, 1, "base", &fixed(&[]));
    let base = bench.steps("base");
    assert!(base.len() == 8 && base[7].0 < base[0].0, "the loss falls: {base:?}");
    for (out, stage) in ["zero-0", "zero-1", "zero-2", "zero-3"].into_iter().zip(0..) {
        let stage =
            ["parallel.zero_stage=0", "parallel.zero_stage=1", "parallel.zero_stage=2", "parallel.zero_stage=3"][stage];
        train(&bench, 2, out, &fixed(&[stage, "micro_batch_tokens=60"]));
        assert_equivalent(&bench.steps(out), &base, out);
        assert!((eval_loss(&bench, out) / eval_loss(&bench, "base") - 1.0).abs() < 1e-5, "{out}");
    }
    train(&bench, 2, "recompute", &fixed(&["parallel.zero_stage=3", "parallel.recompute=all"]));
    assert_equivalent(&bench.steps("recompute"), &base, "activation checkpointing");
}

/// bf16 at ZeRO 3 on two ranks follows fp32; the adapters have fp32 master weights.
#[test]
fn half_precision_follows_fp32() {
    let bench = Bench::new("bert-classification");
    train(&bench, 1, "single", &NO_DROPOUT);
    for (out, kind) in [("bf16", "parallel.precision=bf16"), ("fp16", "parallel.precision=fp16")] {
        let more = [kind, "parallel.zero_stage=3", "save_steps=8"];
        train(&bench, 2, out, &[&NO_DROPOUT[..], &more].concat());
        let difference = (eval_loss(&bench, out) / eval_loss(&bench, "single") - 1.0).abs();
        assert!(difference < 0.03, "{out}: eval_loss differs by {difference}");
        let masters = tensors(&bench.path(out).join("checkpoint-8/optimizer/master.safetensors"));
        assert!(masters.contains_key("layer.0.attention.qkv.lora_A.weight"), "{:?}", masters.keys());
        assert!(masters.keys().all(|name| name.contains("lora_") || name.starts_with("classifier.")));
    }
}

/// A resumed run continues to the same bits, with dropout, in fp32 and bf16.
#[test]
fn a_resumed_run_has_the_same_bits() {
    for precision in ["parallel.precision=fp32", "parallel.precision=bf16"] {
        let bench = Bench::new("bert-classification");
        let more = [precision, "lora.lora_dropout=0.1", "save_steps=4"];
        train(&bench, 2, "whole", &more);
        let from = Resume::Path(bench.path("whole/checkpoint-4"));
        let settings: Vec<&str> = DORA.into_iter().chain(more).collect();
        bench.run(2, "resumed", &settings, &from).unwrap();
        assert_eq!(bench.steps("resumed"), bench.steps("whole"), "{precision}");
        let file = |out: &str| fs::read(bench.path(out).join("final/adapter_model.safetensors")).unwrap();
        assert!(file("whole") == file("resumed"), "{precision}");
    }
}

/// Adapters have the learning rate and the stage of their layer, and each optimizer trains them; a run that resumes in the
/// middle of unfreezing has the same bits.
#[test]
fn adapters_are_unfrozen_layer_by_layer() {
    let bench = Bench::new("bert-classification");
    let more =
        ["train.unfreeze=2", "train.layer_lr_decay=0.8", "train.optim=muon", "train.ema_decay=0.5", "save_steps=3"];
    train(&bench, 1, "whole", &more);
    let names =
        |out: &str, step: u64| tensors(&bench.path(out).join(format!("checkpoint-{step}/optimizer/muon.safetensors")));
    let moved = |step: u64, name: &str| names("whole", step)[name].iter().any(|&byte| byte != 0);
    // The head is first, then a layer every two steps.
    for (step, layer, wanted) in [(3, 1, true), (3, 0, false), (6, 0, true)] {
        let name = format!("momentum_buffer.layer.{layer}.attention.qkv.lora_B.weight");
        assert_eq!(moved(step, &name), wanted, "{name} after {step} steps: {:?}", names("whole", step).keys());
    }
    let settings: Vec<&str> = DORA.into_iter().chain(more).collect();
    bench.run(1, "resumed", &settings, &Resume::Path(bench.path("whole/checkpoint-3"))).unwrap();
    assert_eq!(bench.steps("resumed"), bench.steps("whole"));
    let file = |out: &str| fs::read(bench.path(out).join("final/adapter_model.safetensors")).unwrap();
    assert!(file("whole") == file("resumed"));
    // The pooler's adapter is a part of the head, as the pooler is.
    let settings = bench.settings("told", &[&DORA[..], &more, &["max_steps=7"]].concat());
    let told = run(trainer(&bench).arg("train").args(settings)).expect(0).text();
    assert!(told.contains("│ head: matrices") && !told.contains("final norm"), "{told}");
    train(&bench, 2, "sharded", &[&more[..], &NO_DROPOUT, &["parallel.zero_stage=3"]].concat());
    train(&bench, 1, "alone", &[&more[..], &NO_DROPOUT].concat());
    for ((ours, ..), (wanted, ..)) in bench.steps("sharded").iter().zip(bench.steps("alone")) {
        assert!((ours / wanted - 1.0).abs() < 1e-3, "{ours} and {wanted}");
    }
}

/// The final folder is an adapter's and has the adapters and the classifier alone; the next run continues from it.
#[test]
fn an_adapter_is_written_and_continued() {
    let bench = Bench::new("bert-classification");
    train(&bench, 1, "first", &["save_steps=4"]);
    for name in ["final", "checkpoint-4"] {
        let at = bench.path("first").join(name);
        assert!(!at.join("model.safetensors").exists() && !at.join("config.json").exists(), "{name}");
        let config = json_of(at.join("adapter_config.json"));
        assert_eq!((&config["peft_type"], &config["task_type"]), (&json!("LORA"), &json!("SEQ_CLS")));
        assert_eq!((&config["r"], &config["lora_alpha"], &config["use_dora"]), (&json!(4), &json!(8), &json!(true)));
        assert_eq!(config["base_model_name_or_path"], json!(bench.model));
        let names = tensors(&at.join("adapter_model.safetensors"));
        let of_query = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_magnitude_vector";
        assert!(names.contains_key(of_query) && names.contains_key("base_model.model.classifier.bias"));
        assert!(names.keys().all(|name| name.contains(".lora_") || name.starts_with("base_model.model.classifier.")));
        assert_eq!(json_of(at.join("model_config.json"))["id2label"]["1"], json!("sport"));
    }
    let model = format!("model.path={}", bench.path("first/final").display());
    let plain = [model.as_str(), "learning_rate=1e-12", "max_steps=1", "eval_strategy=steps"];
    bench.run(2, "second", &[&NO_DROPOUT[..], &plain].concat(), &Resume::None).unwrap();
    let difference = (eval_loss(&bench, "second") / eval_loss(&bench, "first") - 1.0).abs();
    assert!(difference < 1e-6, "the adapter goes on where it was: {difference:e}");
    let refuse = |more: &[&str], says: &str| {
        let error = bench.run(1, "third", &[&[model.as_str()], more].concat(), &Resume::None).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refuse(&["lora.r=8"], "lora.r: the adapter in");
    refuse(&["model.init=random"], "is an adapter: remove the setting");
    let elsewhere = format!("lora.base_model_name_or_path={}", folder("cases/bert-multi-label").display());
    refuse(&[&elsewhere], "not an adapter of");
    refuse(&["lora.base_model_name_or_path=nowhere"], "its base model nowhere is no folder here: give the base");
}

/// Evaluation and prediction accept an adapter of `peft`; the logits are `peft`'s.
#[test]
fn predictions_of_an_adapter_are_those_of_peft() {
    let bench = Bench::new("bert-classification");
    for case in ["bert", "bert-dora", "bert-some"] {
        let adapter = folder(&format!("lora/{case}"));
        let logits = predict(&bench, &adapter, Some(&bench.model));
        let expected = TensorFile::open(&adapter.join("reference.safetensors")).unwrap().read("logits").unwrap();
        close(&logits, &expected, 1e-5, case);
    }
    let adapter = folder("lora/bert");
    let moved =
        run(trainer(&bench).args(["predict", "--text", "a", "--model", &adapter.display().to_string()])).expect(2);
    assert!(moved.text().contains("or the option --base-model"), "{}", moved.text());
}

/// A merged model is `peft`'s, in the base's dtype, and predicts what the adapter does.
#[test]
fn a_merged_model_is_that_of_peft() {
    let bench = Bench::new("bert-classification");
    for (case, base) in [
        ("bert", "bert-classification"),
        ("bert-dora", "bert-classification"),
        ("llama", "cases/llama-causal"),
        ("gpt2-dora", "cases/gpt2-causal"),
    ] {
        let (adapter, base, out) =
            (folder(&format!("lora/{case}")), copy_with_tokenizer(&bench, base), bench.path(case));
        let words = [&adapter, &out, &PathBuf::from("--base-model"), &base].map(|p| p.display().to_string());
        run(trainer(&bench).arg("merge").args(words)).expect(0);
        let merged = TensorFile::open(&adapter.join("merged.safetensors")).unwrap();
        let (ours, base) = (TensorFile::open(&out.join("model.safetensors")).unwrap(), base.join("model.safetensors"));
        let base = TensorFile::open(&base).unwrap();
        let (mut ours_names, mut base_names) = (ours.names(), base.names());
        ours_names.sort();
        base_names.sort();
        assert_eq!(ours_names, base_names, "{case}");
        for name in ours_names {
            let tensor = ours.read(&name).unwrap();
            match merged.contains(&name) {
                true => close(&tensor, &merged.read(&name).unwrap(), 1e-6, &format!("{case}: {name}")),
                false => assert!(tensor.equal(&base.read(&name).unwrap()), "{case}: {name} changed"),
            }
        }
    }
    let logits = predict(&bench, &bench.path("bert"), None);
    let expected = TensorFile::open(&folder("lora/bert/reference.safetensors")).unwrap().read("logits").unwrap();
    close(&logits, &expected, 1e-5, "the merged model");
    let again = run(trainer(&bench).args(["merge", &folder("lora/bert").display().to_string(), "bert"]));
    assert!(again.expect(2).text().contains("give the base model's folder"));
}

/// `trainer chat` with an adapter whose base model was moved says what the merged model says.
#[test]
fn an_adapter_chats_with_the_base_model_that_is_given() {
    // Of the tokenizer's ids, the small model has those of letters.
    const LETTERS: &[u8] = b"a b c d e\n";
    let bench = Bench::new("bert-classification");
    let (adapter, base) = (folder("lora/llama"), copy_with_tokenizer(&bench, "cases/llama-causal"));
    let chat = |said: &[u8], model: &Path, base: Option<&Path>| {
        let mut command = trainer(&bench);
        command.args(["chat", "--max-new-tokens", "6"]).arg(model);
        base.iter().for_each(|base| _ = command.arg("--base-model").arg(base));
        let mut chat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A model that is refused does not read.
        _ = chat.stdin.take().unwrap().write_all(said);
        let ended = chat.wait_with_output().unwrap();
        (ended.status.code(), ended.stdout, String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let merged = bench.path("merged");
    // A name without a folder, in the current folder.
    run(trainer(&bench).arg("merge").arg(&adapter).args(["merged", "--base-model"]).arg(&base)).expect(0);
    let (code, said, log) = chat(LETTERS, &adapter, Some(&base));
    assert_eq!((code, &said), (Some(0), &chat(LETTERS, &merged, None).1), "{log}");
    assert_ne!(said, chat(LETTERS, &base, None).1, "the adapter is used");
    let (code, said, log) = chat(LETTERS, &adapter, None);
    assert!(code == Some(2) && said.is_empty() && log.contains("or the option --base-model"), "{log}");
    let (code, _, log) = chat(b"a good day\n", &base, None);
    assert!(code == Some(2) && log.contains("but the model has 60 embeddings"), "{log}");
}

/// A copy of a case, whose folder lacks a tokenizer.
fn copy_with_tokenizer(bench: &Bench, case: &str) -> PathBuf {
    let to = bench.path(&case.replace('/', "-"));
    if !to.exists() {
        common::mistakes::copy_folder(&folder(case), &to);
        fs::copy(bench.model.join("tokenizer.json"), to.join("tokenizer.json")).unwrap();
    }
    to
}

/// The logits of the reference's inputs.
fn predict(bench: &Bench, model: &Path, base: Option<&Path>) -> Tensor {
    let input = folder("bert-classification/inputs.jsonl");
    let mut command = trainer(bench);
    command.args(["predict", "--scores", "--model"]).arg(model).arg("--input").arg(input);
    base.iter().for_each(|base| _ = command.arg("--base-model").arg(base));
    let lines = run(&mut command).expect(0).stdout;
    let rows = lines.lines().map(|line| -> Vec<f64> {
        let line: Value = serde_json::from_str(line).unwrap();
        line["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    });
    let rows: Vec<Tensor> = rows.map(|row| Tensor::from_slice(&row)).collect();
    Tensor::stack(&rows, 0)
}

fn close(ours: &Tensor, theirs: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(ours.size(), theirs.size(), "{what}");
    let difference = (ours.to_kind(Kind::Double) - theirs.to_kind(Kind::Double)).abs().max().double_value(&[]);
    assert!(difference < tolerance, "{what}: {difference:e}");
}

/// Settings that contradict adapters are errors, and a checkpoint of another kind of run is not resumed.
#[test]
fn contradictions_are_errors() {
    let bench = Bench::new("bert-classification");
    let parse = |more: &[&str]| {
        let settings = bench.settings("out", more);
        trainer::config::Config::load(None, &settings).err().unwrap().to_string()
    };
    let text = parse(&["lora.r=4", r#"model.freeze=["bert.embeddings.*"]"#]);
    assert!(text.contains("model.freeze: with [lora] all weights are frozen"), "{text}");
    let text = parse(&["lora.r=4", "model.init=random"]);
    assert!(text.contains("model.init: an adapter needs a pretrained model"), "{text}");
    let text = parse(&["lora.target_modules=query"]);
    assert!(text.contains("expected \"all-linear\" or a list of names"), "{text}");
    train(&bench, 1, "adapter", &["save_steps=4"]);
    let from = Resume::Path(bench.path("adapter/checkpoint-4"));
    let error = bench.run(1, "full", &["max_steps=8"], &from).unwrap_err().to_string();
    assert!(error.contains("has an adapter, but this run trains the full model"), "{error}");
}
