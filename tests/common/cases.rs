//! Reference cases as whole model folders, with a tokenizer and made-up data, so that commands can run on them.

use super::mistakes::{copy_folder, edit};
use super::reference::folder;
use super::runs::{Bench, Lcg};
use serde_json::{Value, json};
use std::fs;
use std::ops::Deref;
use std::path::Path;
use trainer::checkpoint::run_dir::Resume;
use trainer::error::Result;
use trainer::train::Ended;

/// The words that made-up texts are of.
const WORDS: u64 = 34;

/// What a case is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Classes,
    Tags,
    Answers,
    Choices,
    MaskedLm,
    CausalLm,
    Seq2Seq,
}

impl Kind {
    fn task(self) -> &'static str {
        match self {
            Kind::Classes => "sequence-classification",
            Kind::Tags => "token-classification",
            Kind::Answers => "question-answering",
            Kind::Choices => "multiple-choice",
            Kind::MaskedLm => "masked-lm",
            Kind::CausalLm => "causal-lm",
            Kind::Seq2Seq => "seq2seq",
        }
    }

    /// A record; what is to be told follows from the words, so that it can be learnt.
    fn record(self, random: &mut Lcg) -> Value {
        let mut words = |n: u64| (0..1 + random.below(n)).map(|_| word(random.below(WORDS))).collect::<Vec<String>>();
        let first = words(14);
        let number = |word: &str| word.bytes().map(u64::from).sum::<u64>();
        match self {
            Kind::Classes => {
                let label = ["x", "y", "z"][(number(&first[0]) % 3) as usize];
                json!({"text": first.join(" "), "label": label})
            }
            Kind::Tags => {
                let tags: Vec<&str> = first.iter().map(|w| ["O", "B-a", "B-b"][(number(w) % 3) as usize]).collect();
                json!({"words": first, "tags": tags})
            }
            Kind::Answers => {
                let answer = first.last().unwrap();
                let context = first.join(" ");
                let start = context.chars().count() - answer.chars().count();
                json!({"question": words(4).join(" "), "context": context, "answers": {"text": [answer], "answer_start": [start]}})
            }
            Kind::Choices => {
                let choices = [words(3).join(" "), words(3).join(" ")];
                let label = usize::from(number(&choices[0]) > number(&choices[1]));
                json!({"context": first.join(" "), "question": words(4).join(" "), "choices": choices, "label": label})
            }
            Kind::MaskedLm | Kind::CausalLm => json!({"text": first.join(" ")}),
            Kind::Seq2Seq => {
                let target: Vec<String> = first.iter().rev().take(5).cloned().collect();
                json!({"source": first.join(" "), "target": target.join(" ")})
            }
        }
    }
}

/// A bench on a case.
pub struct CaseBench {
    bench: Bench,
    kind: Kind,
}

impl Deref for CaseBench {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl CaseBench {
    /// 70 records to train on and 9 to evaluate, for the model of a case whose vocabulary has room for the words.
    pub fn new(case: &str, kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        copy_folder(&folder(&format!("cases/{case}")), &model);
        fs::remove_file(model.join("reference.safetensors")).unwrap();
        fs::write(model.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        fs::write(
            model.join("tokenizer_config.json"),
            json!({"mask_token": "<mask>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"})
                .to_string(),
        )
        .unwrap();
        edit(&model.join("config.json"), |config| config["eos_token_id"] = 1.into());
        for (name, n, seed) in [("train.jsonl", 70, 1), ("eval.jsonl", 9, 2)] {
            write(&dir.path().join(name), kind, n, seed);
        }
        CaseBench { bench: Bench { dir, model }, kind }
    }

    /// As [`Bench::run`], of the case's task, without dropout.
    pub fn run(&self, world: usize, out: &str, more: &[&str], resume: &Resume) -> Result<Ended> {
        let task = format!("task.kind={}", self.kind.task());
        let dropout = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
        let common = [task.as_str(), "max_length=24", "save_strategy=no"];
        let settings: Vec<&str> = common.into_iter().chain(dropout).chain(more.iter().copied()).collect();
        self.bench.run(world, out, &settings, resume)
    }
}

fn word(i: u64) -> String {
    let letter = |i: u64| char::from(b'a' + (i % 26) as u8);
    format!("{}{}", letter(i / 7), letter(3 * i))
}

/// Whole words between spaces, with the special tokens that the tasks need.
fn tokenizer() -> Value {
    let special = ["<pad>", "</s>", "<unk>", "<mask>", "<sep>"];
    let words = (0..WORDS).map(word);
    let vocab: serde_json::Map<String, Value> = special
        .iter()
        .map(|s| (*s).to_owned())
        .chain(words)
        .zip(0..)
        .map(|(w, i): (String, u64)| (w, json!(i)))
        .collect();
    assert_eq!(vocab.len() as u64, WORDS + 5, "words differ");
    let added = |(id, content): (usize, &&str)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<sep>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "</s>", "type_id": 1}},
            ],
            "special_tokens": {
                "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]},
                "<sep>": {"id": "<sep>", "ids": [4], "tokens": ["<sep>"]},
            },
        },
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

fn write(path: &Path, kind: Kind, n: usize, seed: u64) {
    let mut random = Lcg(seed);
    let lines: Vec<String> = (0..n).map(|_| kind.record(&mut random).to_string()).collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
}
