//! The tokenizer of a model folder in the terms of llama.cpp: the `tokenizer.ggml` keys of a GGUF file
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, "Tokenizer").
//!
//! llama.cpp has its own tokenizers, with parameters that the file sets. `bytes` recognizes the byte-level BPE that one
//! of them computes, `pieces` SentencePiece's BPE. Anything else is an error, because texts would get other tokens.

mod bytes;
mod ends;
mod pieces;
mod vocabulary;

use super::chat_template::{ChatTemplate, Kwargs};
use super::special_tokens::Special;
use super::tokenizer::{Tokenizer, failed};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use tokenizers::AddedToken;
pub use vocabulary::types;
use vocabulary::{Kind, Vocabulary};

/// A tokenizer as llama.cpp describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaCppTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` for byte-level BPE, `llama` for SentencePiece's BPE.
    pub model: &'static str,
    /// `tokenizer.ggml.pre`: how texts are split into words.
    pub pre: &'static str,
    /// The tokens `[vocab_size]`, by id.
    pub tokens: Vec<String>,
    /// The type of each token: one of [`types`].
    pub types: Vec<i32>,
    /// The score of each token; merges with the highest score are made first. Empty for byte-level BPE.
    pub scores: Vec<f32>,
    /// Pairs of tokens, separated by a space, in the order in which they are merged. Empty for SentencePiece's BPE.
    pub merges: Vec<String>,
    pub adds_bos: bool,
    /// Whether texts get a space in front; `None` for byte-level BPE.
    pub adds_space: Option<bool>,
    /// Keys and ids of tokens with a role.
    pub special: Vec<(&'static str, u32)>,
    /// The tokens that end a text.
    pub ends: Vec<u32>,
    /// What the user should know about the result.
    pub notes: Vec<String>,
}

impl LlamaCppTokenizer {
    /// Describes the tokenizer of a folder for a model with `rows` rows in its vocabulary. `ends` are the EOS tokens of
    /// its settings of generation; without any, that of the tokenizer is used.
    ///
    /// # Errors
    /// Exit 2: a tokenizer that llama.cpp does not have; more tokens than rows; no EOS token.
    pub fn of_folder(folder: &Path, rows: usize, ends: &[u32]) -> Result<Self> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        let refuse = |why: String| Error::input(format!("{}: the tokenizer: {why}", folder.display()));
        let json: Value = serde_json::from_str(&tokenizer.inner.to_string(false).map_err(failed)?)?;
        if tokenizer.vocab_size() > rows {
            let size = tokenizer.vocab_size();
            return Err(refuse(format!(
                "it has {size} tokens, but the model's vocabulary {rows}: use the model's own"
            )));
        }
        let ids: HashMap<String, u32> = tokenizer.inner.get_vocab(true).into_iter().collect();
        let added: HashMap<u32, AddedToken> = tokenizer.inner.get_added_tokens_decoder().into_iter().collect();
        let vocabulary = Vocabulary { ids: &ids, added: &added };
        vocabulary.check_added().map_err(refuse)?;
        let kind = kind(&json, &vocabulary, opens_with_token(&tokenizer, &added)?).map_err(refuse)?;
        let unknown = json["model"]["unk_token"].as_str().filter(|_| kind.model == "llama");
        let (tokens, types) = vocabulary.tokens(rows, unknown, kind.model == "llama");
        let mut scores = Vec::new();
        if kind.model == "llama" {
            scores = (0..rows as u32).map(|id| kind.scores.get(&id).copied().unwrap_or_default()).collect();
        }
        let are_set = !ends.is_empty();
        let ends = match (ends, tokenizer.special(Special::Eos)) {
            ([], Some(eos)) => vec![eos],
            // llama.cpp assumes an id if the file has none.
            ([], None) => return Err(refuse("it has no EOS token, which llama.cpp needs: set eos_token".into())),
            (ends, own) => {
                let own = own.filter(|own| ends.contains(own)).unwrap_or(ends[0]);
                std::iter::once(own).chain(ends.iter().copied().filter(|&end| end != own)).collect()
            }
        };
        if let Some(end) = ends.iter().find(|&&end| end as usize >= rows) {
            return Err(refuse(format!("the EOS token {end} is not in the vocabulary of {rows}")));
        }
        let ends::Ends { keys: mut special, notes: of_ends } = ends::describe(&ends, are_set, &tokens, &vocabulary);
        for (role, key) in
            [(Special::Bos, "bos_token_id"), (Special::Unk, "unknown_token_id"), (Special::Pad, "padding_token_id")]
        {
            special.extend(tokenizer.special(role).map(|id| (key, id)));
        }
        // Those after a text are not a part of a prompt.
        let adds_bos = match &tokenizer.token_template(false)?.before[..] {
            [] => false,
            [(id, _)] if special.contains(&("bos_token_id", *id)) => true,
            several => {
                let texts: Vec<String> = several.iter().map(|&(id, _)| tokenizer.token(id)).collect();
                let added = texts.join(" ");
                return Err(refuse(format!("it adds {added} in front of a text; llama.cpp adds only BOS there")));
            }
        };
        let Kind { model, pre, merges, adds_space, mut notes, .. } = kind;
        notes.extend(of_ends);
        if tokenizer.inner.get_encode_special_tokens() {
            notes.push(
                "llama.cpp finds special tokens in texts; this tokenizer does not (split_special_tokens)".to_owned(),
            );
        }
        Ok(LlamaCppTokenizer { model, pre, tokens, types, scores, merges, adds_bos, adds_space, special, ends, notes })
    }
}

/// Whether the conversations that the folder's chat template writes begin with an added token.
fn opens_with_token(tokenizer: &Tokenizer, added: &HashMap<u32, AddedToken>) -> Result<bool> {
    let template = ChatTemplate::of_folder(tokenizer.folder(), tokenizer.special_texts())?;
    let asked = [json!({"role": "user", "content": "a"})];
    let prompt = template.and_then(|template| template.prompt(&asked, None, &Kwargs::new()).ok());
    Ok(prompt.is_some_and(|prompt| added.values().any(|token| prompt.starts_with(&token.content))))
}

fn kind(json: &Value, vocabulary: &Vocabulary, opens_with_token: bool) -> Result<Kind, String> {
    let model = &json["model"];
    let kind = model["type"].as_str().unwrap_or("of an unknown kind");
    if kind != "BPE" {
        return Err(format!("its model is {kind}; of these architectures llama.cpp reads BPE only"));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[key].as_str().is_some_and(|affix| !affix.is_empty()) {
            return Err(format!("{key} = {}, which llama.cpp does not have", model[key]));
        }
    }
    let mut merges = Vec::new();
    for merge in model["merges"].as_array().into_iter().flatten() {
        let pair = match merge {
            Value::String(line) => line.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        merges.push(pair.ok_or_else(|| format!("the merge {merge} is not a pair of tokens"))?);
    }
    if model["byte_fallback"].as_bool() == Some(true) {
        pieces::read(json, vocabulary, &merges, opens_with_token)
    } else {
        bytes::read(json, vocabulary, &merges)
    }
}

#[cfg(test)]
mod tests;
