//! Byte-level BPE: texts are split into words by a regular expression, words are bytes, and bytes are merged.
//!
//! llama.cpp knows some regular expressions, each by the name of a model that has it (`llm_tokenizer_bpe` there).

use super::vocabulary::{Kind, Vocabulary};
use crate::text::pretrained::{LLAMA3_SPLIT, QWEN2_SPLIT};
use serde_json::Value;
use std::collections::HashMap;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Of Mistral's tokenizer Tekken.
pub const TEKKEN_SPLIT: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Regular expressions with the name for each value of `ignore_merges`: whether a word that is a token is one, whatever
/// its merges.
const SPLITS: &[(&str, [Option<&str>; 2])] = &[
    (LLAMA3_SPLIT, [Some("smaug-bpe"), Some("llama-bpe")]),
    (QWEN2_SPLIT, [Some("qwen2"), None]),
    (TEKKEN_SPLIT, [None, Some("tekken")]),
];

/// Recognizes a tokenizer.
///
/// # Errors
/// What llama.cpp does not have.
pub fn read(json: &Value, vocabulary: &Vocabulary, merges: &[(&str, &str)]) -> Result<Kind, String> {
    let mut notes = Vec::new();
    match json["normalizer"]["type"].as_str() {
        None => {}
        Some("NFC") => notes.push(
            "llama.cpp does not normalize texts to NFC as this tokenizer does: texts with combining accents get other \
             tokens there"
                .to_owned(),
        ),
        Some(_) => return Err(format!("the normalizer {}, which llama.cpp does not have", json["normalizer"])),
    }
    let ignores_merges = json["model"]["ignore_merges"].as_bool() == Some(true);
    let pre = name(&json["pre_tokenizer"], ignores_merges).ok_or_else(|| {
        let ignored = if ignores_merges { " with ignore_merges" } else { "" };
        format!(
            "the pre-tokenizer {}{ignored} is none of those that llama.cpp has for byte-level BPE (of GPT-2, Llama 3, \
             Qwen2, SmolLM and Tekken)",
            json["pre_tokenizer"]
        )
    })?;
    if pre == "tekken" {
        notes.push(
            "llama.cpp splits texts into other words than this tokenizer at combining marks, and where letters other \
             than A to Z change between uppercase and lowercase"
                .to_owned(),
        );
    }
    if json["model"]["unk_token"].is_string() {
        let mut letters = ByteLevel::alphabet().into_iter().map(String::from);
        if let Some(missing) = letters.find(|letter| !vocabulary.ids.contains_key(letter)) {
            return Err(format!(
                "its vocabulary lacks the byte {missing:?}, which becomes the unknown token here and nothing in \
                 llama.cpp"
            ));
        }
    }
    let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    Ok(Kind { model: "gpt2", pre, scores: HashMap::new(), merges, adds_space: None, notes })
}

/// Returns llama.cpp's name of a pre-tokenizer.
fn name(pre: &Value, ignores_merges: bool) -> Option<&'static str> {
    let is_bytes = |step: &Value, regex: bool| {
        let flag = |key: &str, default| step[key].as_bool().unwrap_or(default);
        step["type"] == "ByteLevel" && !flag("add_prefix_space", true) && flag("use_regex", true) == regex
    };
    let steps = match pre["pretokenizers"].as_array() {
        Some(steps) if pre["type"] == "Sequence" => steps.as_slice(),
        _ => std::slice::from_ref(pre),
    };
    match steps {
        [bytes] if is_bytes(bytes, true) && !ignores_merges => Some("gpt-2"),
        [digits, bytes] if digits["type"] == "Digits" && is_bytes(bytes, true) && !ignores_merges => {
            (digits["individual_digits"] == true).then_some("smollm")
        }
        [split, bytes] if split["type"] == "Split" && is_bytes(bytes, false) => {
            let matches = split["behavior"] == "Isolated" && split["invert"] != true;
            let regex = split["pattern"]["Regex"].as_str().filter(|_| matches)?;
            let (_, names) = SPLITS.iter().find(|(known, _)| *known == regex)?;
            names[usize::from(ignores_merges)]
        }
        _ => None,
    }
}
