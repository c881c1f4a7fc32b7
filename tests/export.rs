//! `trainer export`: a GGUF file, read back here by its specification, and what is refused.

mod common;

use common::mistakes::edit;
use common::models::tensors;
use common::process::{run, trainer};
use common::runs::Bench;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const VOCABULARY: usize = 700;

/// A GGUF file (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
struct Gguf {
    keys: BTreeMap<String, Value>,
    /// Dimensions, the contiguous one first; type; and the data from the tensor's place on.
    tensors: BTreeMap<String, (Vec<u64>, u32, Vec<u8>)>,
}

/// The rest of a file that is read from its start.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => json!(self.u32()),
            5 => json!(self.u32().cast_signed()),
            6 => json!(f32::from_bits(self.u32())),
            7 => json!(self.take(1)[0] == 1),
            8 => json!(self.text()),
            9 => {
                let (kind, length) = (self.u32(), self.u64());
                (0..length).map(|_| self.value(kind)).collect()
            }
            other => panic!("a value of type {other}"),
        }
    }
}

fn read(path: &Path) -> Gguf {
    let bytes = fs::read(path).unwrap();
    let mut rest = Rest(&bytes);
    assert_eq!((rest.take(4), rest.u32()), (&b"GGUF"[..], 3));
    let (count, keys) = (rest.u64(), rest.u64());
    let mut key = |_| {
        let (name, kind) = (rest.text(), rest.u32());
        (name, rest.value(kind))
    };
    let keys: BTreeMap<String, Value> = (0..keys).map(&mut key).collect();
    let mut info = |_| {
        let (name, dimensions) = (rest.text(), rest.u32());
        let shape: Vec<u64> = (0..dimensions).map(|_| rest.u64()).collect();
        (name, (shape, rest.u32(), rest.u64() as usize))
    };
    let infos: Vec<_> = (0..count).map(&mut info).collect();
    let start = (bytes.len() - rest.0.len()).next_multiple_of(32);
    let tensors = infos.into_iter().map(|(name, (shape, kind, offset))| {
        assert_eq!(offset % 32, 0, "{name}");
        (name, (shape, kind, bytes[start + offset..].to_vec()))
    });
    Gguf { keys, tensors: tensors.collect() }
}

/// Trains a small Llama with a tokenizer of bytes for two steps.
fn language_model(bench: &Bench) {
    let (folder, reference) = (bench.path("model"), common::reference::folder);
    fs::create_dir(&folder).unwrap();
    let copy = |from: &str, name: &str| _ = fs::copy(reference(from).join(name), folder.join(name)).unwrap();
    copy("cases/llama-causal", "config.json");
    copy("tokenizers/bases/bytes", "tokenizer.json");
    edit(&folder.join("config.json"), |config| config["vocab_size"] = json!(VOCABULARY));
    let tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
    });
    fs::write(folder.join("tokenizer_config.json"), tokenizer.to_string()).unwrap();
    let generation = json!({"bos_token_id": 1, "max_new_tokens": 30});
    fs::write(folder.join("generation_config.json"), generation.to_string()).unwrap();
    let text = bench.path("text.txt");
    fs::write(&text, "the sun sees the day\nthe moon sees the night\n".repeat(12)).unwrap();
    let data = format!("data.train={}", text.display());
    let mut settings = bench.settings("run", &[&data, "kind=causal-lm", "documents=lines", "init=random"]);
    settings.retain(|setting| !setting.starts_with("data.eval="));
    settings.extend([format!("model.path={}", folder.display()), "max_steps=2".into()]);
    run(trainer(bench).arg("train").args(settings)).expect(0);
}

#[test]
fn a_language_model_becomes_a_gguf_file_and_a_modelfile() {
    let bench = Bench::new("bert-classification");
    language_model(&bench);
    let export = |more: &[&str]| run(trainer(&bench).args(["export", "run/final", "--to", "gguf"]).args(more));

    let said = export(&["--type", "f32"]).expect(0).text();
    let Gguf { keys, tensors: exported } = read(&bench.path("run/final/model-f32.gguf"));
    assert!(
        said.contains(&format!("exported {} tensors in f32 to run/final/model-f32.gguf", exported.len())),
        "{said}"
    );
    assert_eq!((&keys["general.architecture"], &keys["llama.block_count"]), (&json!("llama"), &json!(2)));
    assert_eq!((&keys["tokenizer.ggml.model"], &keys["tokenizer.ggml.pre"]), (&json!("gpt2"), &json!("gpt-2")));
    // llama.cpp adds no space to byte-level BPE unless a file says so.
    assert!(!keys.contains_key("tokenizer.ggml.add_space_prefix") && keys.contains_key("general.name"));
    for key in ["tokens", "token_type"] {
        assert_eq!(keys[&format!("tokenizer.ggml.{key}")].as_array().unwrap().len(), VOCABULARY, "{key}");
    }
    let end = keys["tokenizer.ggml.eos_token_id"].as_u64().unwrap() as usize;
    assert_eq!(keys["tokenizer.ggml.tokens"][end], "</s>");
    let weights = tensors(&bench.path("run/final/model.safetensors"));
    for (ours, theirs, shape) in [
        ("token_embd.weight", "model.embed_tokens.weight", [16, VOCABULARY as u64]),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight", [24, 16]),
    ] {
        let (dimensions, kind, data) = &exported[ours];
        assert_eq!((&dimensions[..], *kind), (&shape[..], 0), "{ours}");
        assert!(data.starts_with(&weights[theirs]), "{ours} has other values than {theirs}");
    }

    let modelfile = fs::read_to_string(bench.path("run/final/Modelfile")).unwrap();
    assert!(modelfile.starts_with("# Written by trainer export."), "{modelfile}");
    for line in ["FROM ./model-f32.gguf", "PARAMETER num_predict 30", "PARAMETER stop \"</s>\""] {
        assert!(modelfile.lines().any(|own| own == line), "{line}: {modelfile}");
    }

    let again = export(&["--type", "f32"]).expect(2);
    assert!(again.stderr.contains("run/final/model-f32.gguf: exists already"), "{}", again.text());
    // fp16 is the default of fp32 weights, and takes half as much.
    export(&["--output", "other.gguf"]).expect(0);
    let halves = read(&bench.path("other.gguf"));
    assert_eq!((halves.keys["general.file_type"].clone(), halves.tensors["token_embd.weight"].1), (json!(1), 1));
    assert_eq!(halves.tensors.len(), exported.len());
    let smaller = export(&["--type", "Q4_K_M"]).expect(2);
    assert!(smaller.stderr.contains("llama-quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M"), "{}", smaller.text());
    assert!(export(&["--type", "int8"]).expect(2).stderr.contains("expected one of f32, f16, bf16, q8_0"));

    // llama.cpp expects the tokenizer of Phi-3 in a model with such a name.
    fs::rename(bench.path("run/final"), bench.path("my-Phi-3")).unwrap();
    run(trainer(&bench).args(["export", "my-Phi-3", "--to", "gguf", "--output", "named.gguf"])).expect(0);
    assert!(!read(&bench.path("named.gguf")).keys.contains_key("general.name"));
}

#[test]
fn other_models_are_refused() {
    let bench = Bench::new("bert-classification");
    let export = |model: &Path| run(trainer(&bench).arg("export").arg(model).args(["--to", "gguf", "--output", "x"]));
    let encoder = export(&bench.model).expect(2);
    assert!(encoder.stderr.contains("not a language model with a causal-lm head"), "{}", encoder.text());
    let adapter = bench.path("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    assert!(export(&adapter).expect(2).stderr.contains("export the full model: trainer merge"));
    assert!(!bench.path("x").exists());
}
