//! SentencePiece's BPE, as `transformers` has it: spaces become a letter, characters are merged, and what is not in the
//! vocabulary becomes bytes.
//!
//! llama.cpp merges any two neighbors whose text is a token, the token with the highest score first. A list of merges
//! gives the same tokens if it has all of these merges, those of each token one after another.

use super::vocabulary::{Kind, Vocabulary, byte};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// SentencePiece's letter for a space.
const SPACE: &str = "\u{2581}";

/// Recognizes a tokenizer. `opens_with_token`: whether the model's conversations begin with an added token.
///
/// # Errors
/// What llama.cpp does not have.
pub fn read(
    json: &Value,
    vocabulary: &Vocabulary,
    merges: &[(&str, &str)],
    opens_with_token: bool,
) -> Result<Kind, String> {
    if let Some(missing) = (0..=u8::MAX).find(|byte| !vocabulary.ids.contains_key(&format!("<0x{byte:02X}>"))) {
        return Err(format!("its vocabulary lacks the byte <0x{missing:02X}>, which llama.cpp needs"));
    }
    let prepends = normalizer(&json["normalizer"])?;
    let (space, notes) = spaces(&json["pre_tokenizer"], prepends, vocabulary, opens_with_token)?;
    check_merges(vocabulary, merges)?;
    let mut scores = HashMap::new();
    for (left, right) in merges {
        if let Some(&id) = vocabulary.ids.get(&format!("{left}{right}")) {
            let next = -(scores.len() as f32) - 1.0;
            scores.entry(id).or_insert(next);
        }
    }
    Ok(Kind { model: "llama", pre: "default", scores, merges: Vec::new(), adds_space: Some(space), notes })
}

/// Returns whether the normalizer puts a space in front of a text.
fn normalizer(normalizer: &Value) -> Result<bool, String> {
    let steps = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None if normalizer.is_null() => &[],
        None => std::slice::from_ref(normalizer),
    };
    let mut prepends = false;
    for step in steps {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == SPACE => prepends = true,
            Some("Replace") if step["pattern"] == json!({"String": " "}) && step["content"] == SPACE => {}
            _ => return Err(format!("the normalizer {step}, which llama.cpp does not have")),
        }
    }
    Ok(prepends)
}

/// Returns whether texts get a space in front, and what differs in llama.cpp.
fn spaces(
    pre: &Value,
    prepends: bool,
    vocabulary: &Vocabulary,
    opens_with_token: bool,
) -> Result<(bool, Vec<String>), String> {
    if pre.is_null() {
        return Ok((prepends, Vec::new()));
    }
    let refused = || Err(format!("the pre-tokenizer {pre}, which llama.cpp does not have"));
    if pre["type"] != "Metaspace" || pre["replacement"] != SPACE || prepends {
        return refused();
    }
    // Then no token may contain the space between two words.
    let crosses = |(token, id): (&String, &u32)| {
        vocabulary.is_own(*id) && token.char_indices().any(|(at, c)| at > 0 && SPACE.starts_with(c))
    };
    if pre["split"] != false && vocabulary.ids.iter().any(crosses) {
        return refused();
    }
    let note = |what: &str| vec![format!("llama.cpp puts a space in front of {what}; this tokenizer does not")];
    match pre["prepend_scheme"].as_str() {
        Some("never") => Ok((false, Vec::new())),
        Some("always") | None => Ok((true, note("texts that begin with one, after special tokens too"))),
        // This tokenizer puts a space in front of the first text only, which these conversations do not have.
        Some("first") if opens_with_token => {
            let note = "llama.cpp puts no space in front of a text, as in this model's conversations, which begin with \
                        a special token; this tokenizer puts one in front of other texts";
            Ok((false, vec![note.to_owned()]))
        }
        Some("first") => Ok((true, note("texts that begin with one, and of texts after a special token"))),
        Some(_) => refused(),
    }
}

/// Checks that the merges are those that llama.cpp makes.
fn check_merges(vocabulary: &Vocabulary, merges: &[(&str, &str)]) -> Result<(), String> {
    let why = "llama.cpp merges by the scores of tokens, so the list of merges must be that of a SentencePiece model";
    let mut done = HashSet::new();
    let mut last = String::new();
    for (left, right) in merges {
        let result = format!("{left}{right}");
        if result != last && !done.insert(result.clone()) {
            return Err(format!("the merge of {left:?} and {right:?} is apart from others to the same token: {why}"));
        }
        last = result;
    }
    let listed: HashSet<&(&str, &str)> = merges.iter().collect();
    let own = |text: &str| vocabulary.ids.get(text).is_some_and(|&id| vocabulary.is_own(id)) && byte(text).is_none();
    let mut tokens: Vec<&str> = vocabulary.ids.keys().map(String::as_str).filter(|text| own(text)).collect();
    tokens.sort_unstable();
    for token in tokens {
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        for (left, right) in splits.filter(|(left, right)| own(left) && own(right)) {
            if !listed.contains(&(left, right)) {
                return Err(format!("there is no merge of {left:?} and {right:?}: {why}"));
            }
        }
    }
    Ok(())
}
