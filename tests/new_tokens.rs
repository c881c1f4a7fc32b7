//! `data.add_tokens`: rows for new tokens in every family, in the trained folder, and after a resume.

mod common;

use common::cases::{CaseBench, Kind};
use common::models::tensors;
use serde_json::{Value, json};
use std::fs;
use tch::Tensor;
use trainer::checkpoint::run_dir::Resume;
use trainer::checkpoint::tensors::TensorFile;
use trainer::config::Config;
use trainer::text::tokenizer::Tokenizer;

/// The setting that adds so many tokens that the model needs three more rows, and the numbers of rows before and after.
fn growing(bench: &CaseBench) -> (String, i64, i64) {
    let config: Value = serde_json::from_slice(&fs::read(bench.model.join("config.json")).unwrap()).unwrap();
    let rows = config["vocab_size"].as_i64().unwrap();
    let tokens = Tokenizer::from_folder(&bench.model).unwrap().vocab_size() as i64;
    let texts: Vec<String> = (tokens..rows + 3).map(|i| format!("<new-{i}>")).collect();
    (format!("data.add_tokens={}", json!(texts)), rows, rows + 3)
}

#[test]
fn new_rows_are_the_mean_of_the_others() {
    for (case, kind, vocabularies) in [
        ("gpt2-causal", Kind::CausalLm, 1),
        ("gpt2-untied", Kind::CausalLm, 2),
        ("llama-causal", Kind::CausalLm, 2),
        ("bert-masked", Kind::MaskedLm, 2),
        ("t5-tied-relu", Kind::Seq2Seq, 1),
        ("bart-seq2seq", Kind::Seq2Seq, 2),
    ] {
        let bench = CaseBench::new(case, kind);
        let (setting, before, after) = growing(&bench);
        let still = ["max_steps=1", "learning_rate=1e-12", "weight_decay=0", "warmup_steps=0"];
        bench.run(2, "run", &[&[setting.as_str()], &still[..]].concat(), &Resume::None).unwrap();
        let trained = bench.path("run/final");
        let config: Value = serde_json::from_slice(&fs::read(trained.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["vocab_size"], after, "{case}");
        let tokenizer = Tokenizer::from_folder(&trained).unwrap();
        assert_eq!(tokenizer.vocab_size() as i64, after, "{case}");
        let last = tokenizer.encode(&format!("<new-{}>", after - 1), None, 9).unwrap();
        assert!(last.ids.contains(&(after as u32 - 1)), "{case}: {:?}", last.ids);
        let [old, new] = [&bench.model, &trained].map(|dir| TensorFile::open(&dir.join("model.safetensors")).unwrap());
        // BART's bias of the logits is a row.
        let has = |file: &TensorFile, name: &str, rows: i64| file.shape(name).unwrap().contains(&rows);
        let grown: Vec<String> = new.names().into_iter().filter(|name| has(&new, name, after)).collect();
        let own = grown.iter().filter(|name| old.contains(name) && has(&old, name, before));
        assert!(own.count() >= vocabularies.min(grown.len()) && grown.len() >= vocabularies, "{case}: {grown:?}");
        for name in grown.iter().filter(|name| old.contains(name)) {
            let rows = |file: &TensorFile, rows: i64| file.read(name).unwrap().view([rows, -1]);
            let (old, new) = (rows(&old, before), rows(&new, after));
            let mean = old.mean_dim([0i64].as_slice(), true, old.kind());
            let same = |a: &Tensor, b: &Tensor| a.allclose(b, 0.0, 1e-6, false);
            assert!(same(&new.narrow(0, 0, before), &old), "{case}: {name}");
            assert!(same(&new.narrow(0, before, 3), &mean.expand_as(&new.narrow(0, before, 3))), "{case}: {name}");
        }
    }
}

#[test]
fn a_resumed_run_has_the_same_tokens() {
    let bench = CaseBench::new("gpt2-untied", Kind::CausalLm);
    let (setting, ..) = growing(&bench);
    let more =
        |steps: &'static str| [setting.clone(), steps.into(), "save_strategy=steps".into(), "save_steps=2".into()];
    let run = |out: &str, steps: &'static str, resume: &Resume| {
        let more = more(steps);
        bench.run(1, out, &more.each_ref().map(String::as_str), resume).unwrap()
    };
    run("whole", "max_steps=4", &Resume::None);
    let whole = tensors(&bench.path("whole/final/model.safetensors"));
    fs::remove_dir_all(bench.path("whole/checkpoint-4")).unwrap();
    run("whole", "max_steps=4", &Resume::Auto);
    assert_eq!(tensors(&bench.path("whole/final/model.safetensors")), whole);
}

#[test]
fn tokens_that_cannot_be_added_are_refused() {
    let bench = CaseBench::new("llama-causal", Kind::CausalLm);
    let settings = |more: &[&str]| Config::load(None, &bench.settings("a", more)).unwrap_err().to_string();
    assert!(settings(&["data.add_tokens=[\"\"]"]).contains("data.add_tokens: a token is an empty string"));
    assert!(settings(&["data.add_tokens=[\"a\", \"a\"]"]).contains("data.add_tokens: the token \"a\" appears twice"));
    let with_lora = settings(&["data.add_tokens=[\"a\"]", "lora.r=2"]);
    assert!(with_lora.contains("data.add_tokens: an adapter has no rows for new tokens"), "{with_lora}");
    fs::rename(bench.model.join("tokenizer.json"), bench.model.join("elsewhere")).unwrap();
    let error = bench.run(1, "a", &["data.add_tokens=[\"a\"]"], &Resume::None).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json, nor tokenizer.model"), "{error}");
}
