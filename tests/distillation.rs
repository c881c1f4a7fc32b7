//! Learning from a teacher, and models of some of the layers of a folder's.

mod common;

use common::cases::{CaseBench, Kind};
use common::mistakes::{copy_folder, edit};
use common::reference::{alone, folder};
use common::runs::{Bench, assert_equivalent};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use trainer::checkpoint::import::Report;
use trainer::checkpoint::run_dir::Resume;
use trainer::checkpoint::tensors::TensorFile;
use trainer::error::Kind as ErrorKind;
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::parallel::Zero;
use trainer::tasks::Head;
use trainer::train::model_loading::{Declared, LoadOptions, Source};

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
const WEIGHTS: &str = "class_weights={ science = 0.5, sport = 3.0, weather = 1.5 }";

/// Trains a teacher; returns its folder.
fn teacher(bench: &Bench) -> PathBuf {
    bench.run(1, "teacher", &["max_steps=12", "save_strategy=no"], &Resume::None).unwrap();
    bench.path("teacher/final")
}

fn learning_from(teacher: &Path) -> String {
    format!("distill.teacher={}", teacher.display())
}

/// Runs without dropout; returns losses and norms of the steps.
fn steps(bench: &Bench, world: usize, out: &str, more: &[&str]) -> Vec<(f64, f64)> {
    let settings = [&NO_DROPOUT[..], more].concat();
    bench.run(world, out, &settings, &Resume::None).unwrap_or_else(|e| panic!("{out}: {e}"));
    bench.steps(out)
}

/// The mean over the targets of the whole batch, with class weights in the task's part only.
#[test]
fn a_teacher_s_answers_count_alike_at_every_world() {
    let bench = Bench::new("bert-classification");
    let from = learning_from(&teacher(&bench));
    let more = [from.as_str(), "model.layers=[1]", WEIGHTS, "save_strategy=no"];
    let base = steps(&bench, 1, "base", &more);
    let mean = |steps: &[(f64, f64)]| steps.iter().map(|step| step.0).sum::<f64>() / steps.len() as f64;
    assert!(base.len() == 20 && mean(&base[15..]) < mean(&base[..5]), "the loss falls: {base:?}");
    for (world, zero) in [(1, 3), (2, 0), (2, 3), (3, 1)] {
        let stage = format!("parallel.zero_stage={zero}");
        let out = format!("on-{world}-{zero}");
        let found = steps(&bench, world, &out, &[&more[..], &[&stage, "micro_batch_tokens=40"]].concat());
        assert_equivalent(&found, &base, &out);
    }
    let found = steps(&bench, 2, "again", &[&more[..], &["recompute=all"]].concat());
    assert_equivalent(&found, &base, "with activation checkpointing");
    // The teacher does not evaluate, and what it teaches is a part of the whole.
    let still = ["learning_rate=1e-12", "max_steps=1", "eval_on_start=true", "save_strategy=no", WEIGHTS];
    let first = |out: &str, more: &[&str]| {
        let loss = steps(&bench, 1, out, &[&still[..], more].concat())[0].0;
        (loss, bench.lines(out, "eval_loss")[0]["eval_loss"].as_f64().unwrap())
    };
    let plain = first("plain", &[]);
    let taught = first("taught", &[&from, "distill.alpha=1"]);
    let both = first("both", &[&from, "distill.alpha=0.25"]);
    assert!(plain.1 == taught.1 && plain.1 == both.1, "{plain:?} {taught:?} {both:?}");
    assert!((plain.0 - taught.0).abs() > 1e-3, "{plain:?} {taught:?}");
    let expected = 0.75 * plain.0 + 0.25 * taught.0;
    assert!((both.0 / expected - 1.0).abs() < 1e-6, "{} and {expected}", both.0);
}

/// Words, and choices of which questions have different numbers; a teacher of another family.
#[test]
fn other_tasks_have_teachers() {
    let pairs = [
        ("bert-tokens", "bert-tokens", Kind::Tags),
        ("bert-choice", "bert-choice", Kind::Choices),
        ("bert-answers", "bert-answers", Kind::Answers),
        ("xlnet-classes", "albert-classes", Kind::Classes),
    ];
    for (own, other, kind) in pairs {
        let bench = CaseBench::new(own, kind);
        bench.run(1, "teacher", &["max_steps=10"], &Resume::None).unwrap();
        let from = learning_from(&bench.path("teacher/final"));
        let student = CaseBench::new(other, kind);
        let run = |world: usize, out: &str, more: &[&str]| {
            let more = [&[from.as_str(), "max_steps=8"], more].concat();
            student.run(world, out, &more, &Resume::None).unwrap_or_else(|e| panic!("{other}, {out}: {e}"));
            student.steps(out)
        };
        let base = run(1, "base", &[]);
        assert_eq!(base.len(), 8);
        let found = run(2, "sharded", &["parallel.zero_stage=3", "micro_batch_tokens=70"]);
        assert_equivalent(&found, &base, other);
    }
}

/// With dropout, sharded or not, and the checkpoint does not need room for the teacher.
#[test]
fn a_resumed_run_learns_the_same() {
    let bench = Bench::new("bert-classification");
    let folder = teacher(&bench);
    let from = learning_from(&folder);
    for zero in ["parallel.zero_stage=0", "parallel.zero_stage=3"] {
        let more = [from.as_str(), zero, "model.layers=[0]", "hidden_dropout_prob=0.1", "save_steps=7", "max_steps=12"];
        let (whole, cut) = (format!("whole-{zero}"), format!("cut-{zero}"));
        bench.run(2, &whole, &more, &Resume::None).unwrap();
        let checkpoint = bench.path(&whole).join("checkpoint-7");
        bench.run(2, &cut, &more, &Resume::Path(checkpoint.clone())).unwrap();
        assert_eq!(bench.steps(&cut), bench.steps(&whole), "{zero}: resumed at step 7");
        let model = |out: &str| fs::read(bench.path(out).join("final/model.safetensors")).unwrap();
        assert!(model(&cut) == model(&whole), "{zero}: the final models differ");
        let names = TensorFile::open(&checkpoint.join("model.safetensors")).unwrap().names();
        assert!(names.iter().any(|name| name.contains("layer.0.")), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("layer.1.")), "{names:?}");
        let state: Value = serde_json::from_slice(&fs::read(checkpoint.join("trainer_state.json")).unwrap()).unwrap();
        assert_eq!(state["teacher"].as_str().map(str::len), Some(64), "{}", state["teacher"]);
        let refused = |more: &[&str]| {
            let error = bench.run(2, "other", more, &Resume::Path(checkpoint.clone())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
            error.to_string()
        };
        for others in ["model.layers=[1]", "model.layers=[0, 1]"] {
            let more = more.map(|word| if word.starts_with("model.layers") { others } else { word });
            assert!(refused(&more).contains("has other layers (model.layers)"));
        }
        // Another teacher under the same name.
        let kept = bench.path("kept");
        copy_folder(&folder, &kept);
        fs::copy(bench.model.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
        let error = refused(&more);
        assert!(error.contains("distill.teacher: the weights in the folder are not those that"), "{error}");
        fs::copy(kept.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    }
    // Without a teacher a run may go on.
    let from = Resume::Path(bench.path("whole-parallel.zero_stage=0/checkpoint-7"));
    bench.run(1, "alone", &["model.layers=[0]", "max_steps=9"], &from).unwrap();
}

/// Puts the rows of an fp32 tensor of a weight file in another order.
fn reorder(file: &Path, tensor: &str, order: &[usize]) {
    let mut bytes = fs::read(file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    assert_eq!(json[tensor]["dtype"], "F32");
    let at = |end: usize| header + json[tensor]["data_offsets"][end].as_u64().unwrap() as usize;
    let rows: Vec<Vec<u8>> = bytes[at(0)..at(1)].chunks((at(1) - at(0)) / order.len()).map(<[u8]>::to_vec).collect();
    let reordered: Vec<u8> = order.iter().flat_map(|&row| rows[row].clone()).collect();
    bytes[at(0)..at(1)].copy_from_slice(&reordered);
    fs::write(file, bytes).unwrap();
}

#[test]
fn labels_in_another_order_are_mapped_by_name() {
    let bench = Bench::new("bert-classification");
    let folder = teacher(&bench);
    let other = bench.path("other");
    copy_folder(&folder, &other);
    for tensor in ["classifier.weight", "classifier.bias"] {
        reorder(&other.join("model.safetensors"), tensor, &[2, 0, 1]);
    }
    let more = ["max_steps=4", "save_strategy=no"];
    let base = steps(&bench, 1, "base", &[&more[..], &[&learning_from(&folder)]].concat());
    let wrong = steps(&bench, 1, "wrong", &[&more[..], &[&learning_from(&other)]].concat());
    assert!((wrong[0].0 - base[0].0).abs() > 1e-3, "{wrong:?} {base:?}");
    edit(&other.join("config.json"), |config| {
        config["id2label"] = json!({"0": "weather", "1": "science", "2": "sport"});
        config["label2id"] = json!({"weather": 0, "science": 1, "sport": 2});
    });
    let found = steps(&bench, 1, "found", &[&more[..], &[&learning_from(&other)]].concat());
    assert_equivalent(&found, &base, "another order");
}

#[test]
fn a_teacher_of_something_else_is_refused() {
    let bench = Bench::new("bert-classification");
    let trained = teacher(&bench);
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let copy = bench.path(name);
        copy_folder(&trained, &copy);
        edit(&copy.join("config.json"), change);
        copy
    };
    let refused = |teacher: &Path, parts: &[&str]| {
        for world in [1, 2] {
            let error = bench.run(world, "run", &[&learning_from(teacher)], &Resume::None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input, "{error}");
            for part in ["distill.teacher: "].iter().chain(parts) {
                assert!(error.to_string().contains(part), "{error} lacks {part:?}");
            }
        }
        assert!(!bench.path("run/config.toml").exists(), "nothing is begun");
    };
    refused(&bench.path("nowhere"), &["nowhere: no such folder"]);
    refused(&folder("bert-headless-legacy"), &["not a fine-tuned model"]);
    refused(&folder("bert-pairs-regression"), &["fine-tuned for regression", "\"sequence-classification\""]);
    let labels = changed("labels", &|config| config["id2label"]["2"] = json!("politics"));
    refused(&labels, &["only the teacher has politics", "only the data has weather", "task.labels"]);
    let short = changed("short", &|config| config["max_position_embeddings"] = json!(16));
    refused(&short, &["it supports at most 16 tokens", "data.max_length = 16"]);
    let words = changed("words", &|_| ());
    edit(&words.join("tokenizer.json"), |json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.remove("storm").expect("a word of the vocabulary");
        vocabulary.insert("hail".into(), id);
    });
    refused(&words, &["its vocabulary differs", "\"hail\" is token", "missing here", "same tokenizer"]);
    let headless = bench.path("headless");
    copy_folder(&folder("bert-headless-legacy"), &headless);
    edit(&headless.join("config.json"), |config| {
        config["architectures"] = json!(["BertForSequenceClassification"]);
        config["id2label"] = json!({"0": "science", "1": "sport", "2": "weather"});
    });
    refused(&headless, &["the head has no weights: classifier."]);
}

/// A layer beyond the last, and an adapter's folder.
#[test]
fn layers_that_are_not_there_are_refused() {
    let bench = Bench::new("bert-classification");
    let refused = |more: &[&str]| bench.run(1, "run", more, &Resume::None).unwrap_err().to_string();
    let error = refused(&["model.layers=[0, 2]"]);
    assert!(error.contains("there is no layer 2: the model has 2 layers, counted from 0"), "{error}");
    bench.run(1, "adapter", &["max_steps=1", "lora.r=2", "save_strategy=no"], &Resume::None).unwrap();
    let error = refused(&["model.layers=[1]", &format!("model.path={}", bench.path("adapter/final").display())]);
    assert!(error.contains("is an adapter") && error.contains("trainer merge"), "{error}");
}

/// Of every family: the final model is a whole folder with the weights of the layers that were kept.
#[test]
fn students_of_every_family_have_the_kept_layers() {
    for (case, kind, key, layer) in [
        ("bert-tokens", Kind::Tags, "num_hidden_layers", "encoder.layer."),
        ("roberta-masked", Kind::MaskedLm, "num_hidden_layers", "encoder.layer."),
        ("distilbert-tokens", Kind::Tags, "n_layers", "transformer.layer."),
        ("albert-classes", Kind::Classes, "num_hidden_layers", "albert_layers."),
        ("xlnet-classes", Kind::Classes, "n_layer", "transformer.layer."),
        ("gpt2-causal", Kind::CausalLm, "n_layer", "h."),
        ("llama-causal", Kind::CausalLm, "num_hidden_layers", "layers."),
        ("qwen2-tokens", Kind::Tags, "num_hidden_layers", "layers."),
        ("t5-tied-relu", Kind::Seq2Seq, "num_decoder_layers", "block."),
        ("bart-seq2seq-apart", Kind::Seq2Seq, "decoder_layers", "layers."),
    ] {
        let bench = CaseBench::new(case, kind);
        // So low a learning rate changes no weight by more than itself.
        let more = ["model.layers=[1]", "max_steps=1", "learning_rate=1e-12"];
        bench.run(2, "run", &more, &Resume::None).unwrap_or_else(|e| panic!("{case}: {e}"));
        let model = bench.path("run/final");
        let config = registry::read_config(&model).unwrap();
        assert_eq!(config[key], 1, "{case}: {config}");
        let head = Head::of_config(&model, &config).unwrap();
        let declared = Declared::read(&model, config, DropoutOverrides::default(), head.role()).unwrap();
        let options = LoadOptions {
            kind: tch::Kind::Float,
            zero: Zero::ALL[0],
            trains: false.into(),
            seed: 0,
            from: Source::Folder,
        };
        let loaded = declared.with_head(&head).load(&alone(), &options).unwrap();
        assert_eq!(loaded.report, Report::default(), "{case}");
        let [own, whole] = [&model, &bench.model].map(|folder| {
            let file = TensorFile::open(&folder.join("model.safetensors"));
            file.unwrap_or_else(|e| panic!("{case}: {e}"))
        });
        let names = own.names();
        let (first, second) = (format!("{layer}0."), format!("{layer}1."));
        assert!(!names.iter().any(|name| name.contains(&second)), "{case}: {names:?}");
        let of_layers: Vec<&String> = names.iter().filter(|name| name.contains(&first)).collect();
        assert!(!of_layers.is_empty(), "{case}: {names:?}");
        for name in of_layers {
            // ALBERT's layers share their weights; T5's position biases are in its first layer only.
            let shared = case.starts_with("albert") || name.contains("relative_attention_bias");
            let from = if shared { name.clone() } else { name.replace(&first, &second) };
            let (found, expected) = (own.read(name).unwrap(), whole.read(&from).unwrap());
            let error = (found - expected).abs().max().double_value(&[]);
            assert!(error <= 1e-9, "{case}: {name} is not {from}: {error:e}");
        }
    }
}
