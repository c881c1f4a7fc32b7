//! Weights in every format: the parameters of the model are bit-identical to those of the same model in one safetensors
//! file; folders that cannot be read are refused with the cause and the remedy.

mod common;

use common::mistakes::{copy_folder, edit};
use common::reference::folder;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tch::{Kind, Tensor};
use trainer::checkpoint::tensor_writer::{Entry, Writer};
use trainer::checkpoint::tensors::TensorFile;
use trainer::comm::{Collective, threads};
use trainer::error::Result;
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::parallel::Zero;
use trainer::tasks::Head;
use trainer::text::records::{self, Fields, OnBad, Source};
use trainer::text::tokenizer::Tokenizer;
use trainer::train::model_loading::{self, Declared, LoadOptions, Loaded};

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438007537\n";

fn load(folder: &Path) -> Result<Loaded> {
    let json = registry::read_config(folder)?;
    let head = Head::of_config(folder, &json)?;
    let declared = Declared::read(folder, json, DropoutOverrides::default(), head.role())?;
    let solo: Arc<dyn Collective> = threads::group(1, Duration::from_secs(10)).remove(0);
    let how = LoadOptions {
        kind: Kind::Float,
        zero: Zero::ALL[0],
        trains: true.into(),
        seed: 7,
        from: model_loading::Source::Folder,
    };
    declared.with_head(&head).load(&solo, &how)
}

/// The values of all parameters by name.
fn parameters(folder: &Path) -> BTreeMap<String, Tensor> {
    let Loaded { params, report, .. } = load(folder).unwrap();
    assert!(report.missing.is_empty() && report.mismatched.is_empty(), "{report:?}");
    params.ids().map(|id| (params.spec(id).name.clone(), params.view(id).detach().copy())).collect()
}

fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (parameters(found), parameters(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, value) in found {
        assert!(value.equal(&expected[&name]), "{name}");
    }
}

/// The error of a copy of a folder after a change.
fn message(of: &str, change: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&folder(of), dir.path());
    change(dir.path());
    let error = load(dir.path()).err().expect("an error");
    assert_eq!(error.kind().exit_code(), 2, "{error}");
    error.to_string()
}

/// Writes the tensors of a folder's weight file again; `change` gives their names and values, or leaves them out.
fn rewrite(folder: &Path, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
    let path = folder.join("model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let changed = file.names().into_iter().filter_map(|name| change(&name, file.read(&name).unwrap()));
    let tensors: Vec<(String, Tensor)> = changed.collect();
    let entry =
        |(name, value): &(String, Tensor)| Entry { name: name.clone(), shape: value.size(), kind: value.kind() };
    let mut writer = Writer::create(&path, tensors.iter().map(entry).collect()).unwrap();
    tensors.iter().for_each(|(name, value)| writer.write(name, value).unwrap());
    writer.finish().unwrap();
}

#[test]
fn pickles_load_to_the_bits_of_safetensors() {
    assert_same(&folder("formats/torch/gpt2-causal"), &folder("cases/gpt2-causal"));
    assert_same(&folder("formats/torch/sharded"), &folder("cases/llama-causal"));
}

#[test]
fn a_tensorflow_checkpoint_loads_to_the_bits_of_safetensors() {
    assert_same(&folder("formats/bert-tensorflow"), &folder("cases/bert-pretraining"));
}

#[test]
fn wrappers_of_training_are_removed_from_names() {
    for case in ["gpt2-causal", "llama-causal", "bert-masked", "t5-tied-relu"] {
        for prefix in ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."] {
            let dir = tempfile::tempdir().unwrap();
            copy_folder(&folder(&format!("cases/{case}")), dir.path());
            rewrite(dir.path(), |name, value| Some((format!("{prefix}{name}"), value)));
            assert_same(dir.path(), &folder(&format!("cases/{case}")));
        }
    }
    let both = message("cases/bert-masked", |dir| {
        let twice = dir.join("model.safetensors");
        let value = Tensor::from_slice(&[1.0f32]);
        let entry = |name: &str| Entry { name: name.to_owned(), shape: vec![1], kind: Kind::Float };
        let mut writer = Writer::create(&twice, vec![entry("a"), entry("module.a")]).unwrap();
        ["a", "module.a"].iter().for_each(|name| writer.write(name, &value).unwrap());
        writer.finish().unwrap();
    });
    assert!(both.contains("two tensors a, once within a wrapper"), "{both}");
}

/// A bare model's names have no prefix, and it has no bias of the logits. Older files have one embedding matrix even if
/// encoder and decoder have their own.
#[test]
fn older_files_of_bart_load() {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&folder("cases/bart-seq2seq"), dir.path());
    rewrite(dir.path(), |name, value| Some((name.strip_prefix("model.")?.to_owned(), value)));
    let mut expected = parameters(&folder("cases/bart-seq2seq"));
    assert!(expected.remove("logits_bias").is_some());
    assert_eq!(parameters(dir.path()), expected);

    copy_folder(&folder("cases/bart-seq2seq-apart"), dir.path());
    rewrite(dir.path(), |name, value| (!name.contains("embed_tokens")).then(|| (name.to_owned(), value)));
    let found = parameters(dir.path());
    for stack in ["encoder", "decoder"] {
        assert!(found[&format!("{stack}.embeddings.words.weight")].equal(&found["shared"]), "{stack}");
    }
}

/// The head of a pretrained language model is never a new one, in any family.
#[test]
fn a_missing_language_model_head_is_an_error() {
    for case in ["gpt2-untied", "llama-causal", "t5-gated-gelu", "bart-seq2seq-apart"] {
        let config: Value =
            serde_json::from_slice(&fs::read(folder(&format!("cases/{case}/config.json"))).unwrap()).unwrap();
        if config["tie_word_embeddings"] == json!(true) {
            continue;
        }
        let message = message(&format!("cases/{case}"), |dir| {
            rewrite(dir, |name, value| (name != "lm_head.weight").then(|| (name.to_owned(), value)));
        });
        assert!(message.contains("lm_head.weight is missing, but tie_word_embeddings is false"), "{message}");
    }
    let layer = message("cases/gpt2-untied", |dir| {
        rewrite(dir, |name, value| (!name.contains("h.1.")).then(|| (name.to_owned(), value)));
    });
    assert!(layer.contains("h.1.ln_1.weight is missing"), "{layer}");
}

#[test]
fn quantized_weights_are_refused_and_full_ones_are_not() {
    for (case, kind) in [("llama-causal", Kind::Uint8), ("gpt2-causal", Kind::Int8), ("bert-masked", Kind::Int)] {
        let message = message(&format!("cases/{case}"), |dir| {
            rewrite(dir, |name, value| {
                let packed = if value.dim() == 2 { value.to_kind(kind) } else { value };
                Some((name.to_owned(), packed))
            });
        });
        assert!(message.contains("these weights are quantized, and only full weights"), "{message}");
    }
    let named = message("cases/llama-causal", |dir| {
        rewrite(dir, |name, value| Some((name.replace("q_proj.weight", "q_proj.qweight"), value)));
    });
    assert!(named.contains("q_proj.qweight (F32): these weights are quantized"), "{named}");
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&folder("cases/llama-causal"), dir.path());
    edit(&dir.path().join("config.json"), |json| {
        json["quantization_config"] = json!({"quant_method": "bitsandbytes"});
        json["auto_map"] = json!({"AutoModelForCausalLM": "own.Own"});
        json["torch_dtype"] = json!("float16");
    });
    assert_same(dir.path(), &folder("cases/llama-causal"));
    let exported = load(dir.path()).unwrap().model.config_json(Kind::BFloat16);
    let keys = ["quantization_config", "auto_map", "torch_dtype"];
    assert!(keys.iter().all(|key| exported.get(key).is_none()), "{exported}");
    assert_eq!(exported["dtype"], "bfloat16");
}

#[test]
fn an_index_and_files_that_do_not_fit_are_refused() {
    let of = "formats/torch/sharded";
    let [one, two] = [1, 2].map(|i| format!("pytorch_model-0000{i}-of-00002.bin"));
    let index = "pytorch_model.bin.index.json";
    let missing = message(of, |dir| fs::remove_file(dir.join(&two)).unwrap());
    assert!(missing.contains(&format!("{index}: {two} is not in the folder")), "{missing}");
    let cut = message(of, |dir| {
        let bytes = fs::read(dir.join(&one)).unwrap();
        fs::write(dir.join(&one), &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(cut.contains(&one) && cut.contains("Download it again"), "{cut}");
    let stale = message(of, |dir| {
        edit(&dir.join(index), |json| {
            json["weight_map"].as_object_mut().unwrap().values_mut().for_each(|file| {
                *file = json!(if *file == json!(one) { &two } else { &one });
            });
        });
    });
    assert!(stale.contains(" has no tensor ") && stale.contains("download all of them again"), "{stale}");
    let outside = message(of, |dir| edit(&dir.join(index), |json| json["weight_map"]["a"] = json!("../a.bin")));
    assert!(outside.contains("../a.bin is not in the folder"), "{outside}");
    let without_both = message(of, |dir| {
        fs::remove_file(dir.join(index)).unwrap();
        fs::remove_file(dir.join(&one)).unwrap();
    });
    assert!(without_both.contains(&format!("{one}: this file of the model is missing")), "{without_both}");
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&folder(of), dir.path());
    fs::remove_file(dir.path().join(index)).unwrap();
    fs::write(dir.path().join("consolidated.safetensors"), b"others").unwrap();
    assert_same(dir.path(), &folder("cases/llama-causal"));
}

#[test]
fn git_lfs_pointers_are_named() {
    for file in ["model.safetensors", "config.json"] {
        let message = message("cases/llama-causal", |dir| fs::write(dir.join(file), LFS).unwrap());
        assert!(message.contains(&format!("{file}: only a Git LFS pointer")), "{message}");
        assert!(message.contains("git lfs pull"), "{message}");
    }
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "vocab.txt"] {
        fs::write(dir.path().join(file), LFS).unwrap();
        let message = Tokenizer::fingerprint_of(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("{file}: only a Git LFS pointer")), "{message}");
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let data = dir.path().join("train.jsonl");
    fs::write(&data, LFS).unwrap();
    let (fields, on_bad_record) = (Fields::default(), OnBad::Error);
    let source = Source { files: data.into(), format: None, columns: None, header: None, fields, on_bad_record };
    let message = records::read(&source).unwrap_err().to_string();
    assert!(message.contains("train.jsonl: only a Git LFS pointer"), "{message}");
}

#[test]
fn a_pickle_that_calls_a_function_is_refused_as_weights() {
    let message = message("cases/llama-causal", |dir| {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
        fs::copy(folder("formats/torch/calls-system.bin"), dir.join("pytorch_model.bin")).unwrap();
    });
    assert!(message.contains("pytorch_model.bin: this pickle has posix.system"), "{message}");
    assert!(!Path::new("executed-by-a-pickle").exists());
}

/// Cut and changed safetensors files are errors, or have the tensors that their headers say; nothing panics.
#[test]
fn damaged_safetensors_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(folder("cases/bert-masked/model.safetensors")).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 60) {
        fs::write(&path, &whole[..length]).unwrap();
        let message = TensorFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("not a complete safetensors file") && message.contains("Download"), "{message}");
    }
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in (0..header).step_by(header / 200) {
        let mut bytes = whole.clone();
        bytes[at] ^= [0x01, 0x10, 0x80][at % 3];
        fs::write(&path, &bytes).unwrap();
        let Ok(file) = TensorFile::open(&path) else { continue };
        for name in file.names() {
            let read = file.read(&name);
            assert!(read.is_err() || read.unwrap().numel() * 4 <= whole.len());
        }
    }
}
