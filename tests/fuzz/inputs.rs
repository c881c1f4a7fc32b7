//! The readers of files that people have, each as a function of a file's bytes: what the fuzz targets run, and the test
//! `damaged_files_neither_panic_nor_take_much_memory` with the corpus.
//!
//! The readers take paths, as in the program: each function writes the bytes to a file in a folder of its own. A file
//! that is refused is fine; a panic, an abort or an endless loop is not.

use std::fs;
use std::path::{Path, PathBuf};
use trainer::checkpoint::tensors::TensorFile;
use trainer::checkpoint::weight_sets::WeightSet;
use trainer::config::Config;
use trainer::text::choices::{self, ChoiceSource};
use trainer::text::columns;
use trainer::text::conversations::{self, ConversationSource};
use trainer::text::documents::{self, Division, DocumentSource};
use trainer::text::files::Files;
use trainer::text::pairs::{self, PairLayout, PairSource};
use trainer::text::prompts::{self, PromptSource};
use trainer::text::questions::{self, QuestionSource};
use trainer::text::records::{self, Fields, OnBad, Source};
use trainer::text::tagged::{self, TaggedSource};
use trainer::text::tokenizer::Tokenizer;

/// Reads a file with these bytes in this folder.
pub type Read = fn(&Path, &[u8]);

/// The targets.
pub const TARGETS: &[(&str, Read)] = &[
    ("bundle", bundle),
    ("bundle_block", bundle_block),
    ("config", config),
    ("conll", conll),
    ("csv", csv),
    ("jsonl", jsonl),
    ("safetensors", safetensors),
    ("safetensors_index", safetensors_index),
    ("sentencepiece", sentencepiece),
    ("squad", squad),
    ("tiktoken", tiktoken),
    ("tokenizer_config", tokenizer_config),
    ("tokenizer_json", tokenizer_json),
    ("torch", torch),
    ("tsv", tsv),
    ("vocab_json", vocab_json),
    ("vocab_txt", vocab_txt),
];

/// Runs a target in a folder of this process, as a fuzzer does.
///
/// # Panics
/// If the reader panics; on an unknown name.
#[allow(dead_code, reason = "only the fuzz targets use it")]
pub fn fuzz(name: &str, bytes: &[u8]) {
    // In memory, where there is such a file system.
    let base = Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
    let (_, read) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target of this name");
    let dir = base.join(format!("trainer-fuzz-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder for the files");
    read(&dir, bytes);
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).expect("the folder can be written to");
    path
}

// ----------------------------------------------------------------------------------------------------------- weights

fn torch(dir: &Path, bytes: &[u8]) {
    weights(&written(dir, "pytorch_model.bin", bytes));
}

fn safetensors(dir: &Path, bytes: &[u8]) {
    weights(&written(dir, "model.safetensors", bytes));
}

/// The bytes are the index; the data are zeros.
fn bundle(dir: &Path, bytes: &[u8]) {
    let data = dir.join("bert_model.ckpt.data-00000-of-00001");
    if !data.exists() {
        fs::write(&data, vec![0; 24 << 10]).expect("the folder can be written to");
    }
    written(dir, "bert_model.ckpt.index", bytes);
    _ = WeightSet::of(dir);
    weights(&data);
}

/// The bytes are the only block of an index, whose checksums are right.
fn bundle_block(dir: &Path, bytes: &[u8]) {
    // Blocks end with a byte for the compression and a checksum (LevelDB's `doc/table_format.md`).
    let block = |content: &[u8]| {
        let content = [content, &[0]].concat();
        let step = |crc: u32, &byte: &u8| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
        };
        let crc = !content.iter().fold(!0, step);
        [&content[..], &crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()].concat()
    };
    let handle = |place: usize, length: usize| {
        let varint = |n: usize| [n as u8 | 0x80, (n >> 7) as u8 | 0x80, (n >> 14) as u8 & 0x7f];
        [varint(place), varint(length)].concat()
    };
    let bytes = &bytes[..bytes.len().min(1 << 20)];
    let entry = [&[0, 1, 6, b'z'], &handle(0, bytes.len())[..], &[0, 0, 0, 0, 1, 0, 0, 0]].concat();
    let (first, index) = (block(bytes), block(&entry));
    let mut footer = [handle(0, 0), handle(first.len(), entry.len())].concat();
    footer.resize(40, 0);
    footer.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    bundle(dir, &[first, index, footer].concat());
}

fn safetensors_index(dir: &Path, bytes: &[u8]) {
    written(dir, "model.safetensors.index.json", bytes);
    _ = WeightSet::of(dir);
}

fn weights(path: &Path) {
    let Ok(file) = TensorFile::open(path) else { return };
    for name in file.names() {
        file.dtype_name(&name).expect("a tensor of this name");
        let shape = file.shape(&name).expect("a tensor of this name");
        if let Ok(tensor) = file.read(&name) {
            assert_eq!(tensor.size(), shape, "{name}");
        }
    }
}

// -------------------------------------------------------------------------------------------------------- tokenizers

/// Tokens of many kinds, which damaged rules and merges would fail on.
const TEXT: &str =
    "The quick \u{fb01} brown \u{2026} [ENT] fox\u{301}, 12.5 \u{4e2d}\u{1f600}\n\t jumps <s> \u{2581}over";

/// Chooses by the bytes, so that other bytes are read in other ways.
fn one_of<T: Copy>(all: &[T], bytes: &[u8]) -> T {
    all[bytes.iter().fold(0, |sum: usize, &byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte))) % all.len()]
}

/// Tokenizes with the files of a folder, as a model of this type.
fn tokenize(dir: &Path, model_type: &str) {
    written(dir, "config.json", format!("{{\"model_type\": {model_type:?}}}").as_bytes());
    if let Ok(tokenizer) = Tokenizer::from_folder(dir) {
        // A vocabulary may lack the token for unknown words.
        _ = tokenizer.encode(TEXT, None, 32);
        _ = tokenizer.encode("a", Some(TEXT), 512);
        tokenizer.vocab_size();
        if !dir.join("tokenizer.json").exists() {
            _ = Tokenizer::missing_files(dir);
        }
    }
}

fn tokenizer_json(dir: &Path, bytes: &[u8]) {
    written(dir, "tokenizer.json", bytes);
    tokenize(dir, one_of(&["mistral", "bert", "roberta", "gpt2", "qwen2", "xlm-roberta", "t5", "xlnet"], bytes));
}

fn sentencepiece(dir: &Path, bytes: &[u8]) {
    written(dir, "tokenizer.model", bytes);
    tokenize(dir, one_of(&["llama", "mistral", "t5", "albert", "xlnet", "xlm-roberta", "camembert"], bytes));
}

fn tiktoken(dir: &Path, bytes: &[u8]) {
    written(dir, "tiktoken.model", bytes);
    tokenize(dir, "llama");
}

fn vocab_txt(dir: &Path, bytes: &[u8]) {
    written(dir, "vocab.txt", bytes);
    tokenize(dir, "bert");
}

/// The bytes are `vocab.json` and, from a line `#version` on, `merges.txt`.
fn vocab_json(dir: &Path, bytes: &[u8]) {
    let split = bytes.windows(9).position(|bytes| bytes == b"\n#version").unwrap_or(bytes.len());
    written(dir, "vocab.json", &bytes[..split]);
    written(dir, "merges.txt", bytes[split..].strip_prefix(b"\n").unwrap_or_default());
    tokenize(dir, one_of(&["gpt2", "roberta", "qwen3"], bytes));
}

/// The settings of a vocabulary of one of several kinds.
fn tokenizer_config(dir: &Path, bytes: &[u8]) {
    const BERT: &[u8] = include_bytes!("../reference/tokenizers/bases/bert/vocab.txt");
    const T5: &[u8] = include_bytes!("../reference/tokenizers/bases/t5/spiece.model");
    const TIKTOKEN: &[u8] = include_bytes!("../reference/tokenizers/bases/tiktoken/tokenizer.model");
    let kinds = [("bert", "vocab.txt", BERT), ("t5", "spiece.model", T5), ("llama", "tiktoken.model", TIKTOKEN)];
    let (model_type, name, vocabulary) = one_of(&kinds, bytes);
    let dir = dir.join(model_type);
    fs::create_dir_all(&dir).expect("the folder can be written to");
    written(&dir, name, vocabulary);
    written(&dir, "tokenizer_config.json", bytes);
    tokenize(&dir, model_type);
}

// -------------------------------------------------------------------------------------------------------------- data

fn csv(dir: &Path, bytes: &[u8]) {
    table(written(dir, "a.csv", bytes));
}

fn tsv(dir: &Path, bytes: &[u8]) {
    let path = written(dir, "a.tsv", bytes);
    sentences(&path);
    table(path);
}

fn jsonl(dir: &Path, bytes: &[u8]) {
    let path = written(dir, "a.jsonl", bytes);
    sentences(&path);
    let files = Files::from(path.clone());
    _ = questions::read(&QuestionSource { files: files.clone(), labelled: true, on_bad_record: OnBad::Skip });
    let [question, choices] = ["question", "choices"].map(String::from);
    let (context, label) = (None, Some("label".into()));
    let on_bad_record = OnBad::Error;
    _ = choices::read(&ChoiceSource { files, format: None, question, context, choices, label, on_bad_record });
    table(path);
}

fn squad(dir: &Path, bytes: &[u8]) {
    let files = Files::from(written(dir, "a.json", bytes));
    for (labelled, on_bad_record) in [(true, OnBad::Error), (true, OnBad::Skip), (false, OnBad::Error)] {
        _ = questions::read(&QuestionSource { files: files.clone(), labelled, on_bad_record });
    }
}

fn conll(dir: &Path, bytes: &[u8]) {
    sentences(&written(dir, "a.conll", bytes));
    // Which of two formats it is follows from the content.
    sentences(&written(dir, "a.txt", bytes));
}

/// Reads words with and without tags.
fn sentences(path: &Path) {
    for tags in [Some("tags".into()), None] {
        let (files, words) = (path.into(), "words".into());
        _ = tagged::read(&TaggedSource { files, format: None, words, tags, on_bad_record: OnBad::Skip });
    }
}

/// Reads records as all tasks do that read a table or objects.
fn table(path: PathBuf) {
    let files = Files::from(path);
    let all = |many_labels: bool, header: Option<bool>, on_bad_record: OnBad| Source {
        files: files.clone(),
        format: None,
        columns: (header == Some(false)).then(|| ["text", "label", "id"].map(String::from).to_vec()),
        header,
        fields: Fields { many_labels, text_pair: many_labels.then(|| "b".into()), ..Fields::default() },
        on_bad_record,
    };
    _ = records::read(&all(false, None, OnBad::Error));
    _ = records::read(&all(true, Some(true), OnBad::Skip));
    _ = records::read(&all(false, Some(false), OnBad::Skip));
    _ = columns::read(&all(false, None, OnBad::Error), &["text".into(), "id".into()]);
    _ = documents::read(&DocumentSource::Text { files: files.clone(), division: Division::Paragraphs });
    let layout = PairLayout::Records { format: None, source: "source".into(), target: Some("target".into()) };
    _ = pairs::read(&PairSource { files: files.clone(), layout, on_bad_record: OnBad::Skip });
    let [prompt, completion, messages, text] = ["prompt", "completion", "messages", "text"].map(String::from);
    let (format, on_bad_record) = (None, OnBad::Skip);
    let (p, m) = (prompt.clone(), messages.clone());
    _ = prompts::read(&PromptSource { files: files.clone(), format, text, prompt: p, messages: m, on_bad_record });
    _ = conversations::read(&ConversationSource { files, format, prompt, completion, messages, on_bad_record });
}

// ----------------------------------------------------------------------------------------------------- configuration

/// The text as a file, and its lines as settings on the command line.
fn config(_: &Path, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    _ = Config::parse(&text, "a.toml", &[]);
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    _ = Config::parse("", "the command line", &words);
    _ = trainer::config::check_options(&words, &[]);
}
