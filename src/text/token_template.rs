//! Tokenization for language models: tokens without special tokens, and the template of special tokens around them.

use super::special_tokens::Special;
use super::tokenizer::{Tokenizer, failed};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::ops::Range;

/// The n tokens of a text, without special tokens around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedText {
    /// Token ids `[n]`.
    pub ids: Vec<u32>,
    /// Word index of each token `[n]`, as split by the pre-tokenizer.
    pub word_ids: Vec<Option<u32>>,
    /// Byte range in the text of each token `[n]`.
    pub offsets: Vec<Range<usize>>,
}

/// The special tokens that the tokenizer's post-processor adds to a text or a pair: id and segment of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenTemplate {
    pub before: Vec<(u32, u8)>,
    /// The tokens between the two texts of a pair.
    pub between: Vec<(u32, u8)>,
    pub after: Vec<(u32, u8)>,
    /// The segments of the first and of the second text.
    pub segments: [u8; 2],
}

impl TokenTemplate {
    pub fn len(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// Returns the special tokens to add before and after a text, leaving out those already there.
    pub fn missing(&self, ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let of = |tokens: &[(u32, u8)]| tokens.iter().map(|(id, _)| *id).collect::<Vec<u32>>();
        let (mut before, mut after) = (of(&self.before), of(&self.after));
        if ids.starts_with(&before) {
            before.clear();
        }
        if ids.ends_with(&after) {
            after.clear();
        }
        (before, after)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tokenizer {
    /// Returns the token ids of a text, without special tokens.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// Like [`Self::ids`], with word ids and offsets; this is slower.
    pub fn tokenize(&self, text: &str) -> Result<TokenizedText> {
        let encoding = self.inner.encode(text, false).map_err(failed)?;
        Ok(TokenizedText {
            ids: encoding.get_ids().to_vec(),
            word_ids: encoding.get_word_ids().to_vec(),
            offsets: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    /// Returns the special tokens around a text, or around the texts of a pair.
    ///
    /// # Errors
    /// Errors of the tokenizer; a post-processor that repeats or drops a text (exit 2).
    pub fn token_template(&self, pair: bool) -> Result<TokenTemplate> {
        // Ids that no vocabulary contains.
        const TEXTS: [u32; 2] = [u32::MAX, u32::MAX - 1];
        let text = |id: u32, segment: u32| {
            tokenizers::Encoding::from_tokens(vec![tokenizers::Token::new(id, String::new(), (0, 0))], segment)
        };
        let encoding = self.post_process(text(TEXTS[0], 0), pair.then(|| text(TEXTS[1], 1)))?;
        let tokens: Vec<(u32, u8)> =
            encoding.get_ids().iter().zip(encoding.get_type_ids()).map(|(&id, &segment)| (id, segment as u8)).collect();
        let position = |text: u32| {
            let mut found = tokens.iter().enumerate().filter(|(_, (id, _))| *id == text).map(|(position, _)| position);
            found.next().filter(|_| found.next().is_none())
        };
        let (first, second) = (position(TEXTS[0]), position(TEXTS[1]));
        let unsupported = || {
            let why = "unsupported post-processor: it must keep each text exactly once, in order";
            Error::input(format!("{}: {why}", self.folder.display()))
        };
        let first = first.ok_or_else(unsupported)?;
        let last = if pair { second.filter(|&second| second > first).ok_or_else(unsupported)? } else { first };
        Ok(TokenTemplate {
            before: tokens[..first].to_vec(),
            between: tokens[first + 1..last.max(first + 1)].to_vec(),
            after: tokens[last + 1..].to_vec(),
            segments: [tokens[first].1, tokens[last].1],
        })
    }

    /// Returns the id of a special token, if the folder defines it and the vocabulary has it. The mask token is also
    /// found by its usual names.
    pub fn special(&self, special: Special) -> Option<u32> {
        let usual: &[&str] = if special == Special::Mask { &["[MASK]", "<mask>"] } else { &[] };
        let is_special = |id: &u32| self.inner.get_added_tokens_decoder().get(id).is_some_and(|token| token.special);
        let usual = || usual.iter().filter_map(|token| self.inner.token_to_id(token)).find(is_special);
        self.special.id(special, |token| self.inner.token_to_id(token)).or_else(usual)
    }

    /// Returns the vocabulary entry of an id; empty if there is none.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// Returns the special tokens as (name in chat templates, token), such as (`eos_token`, `</s>`): those that
    /// `transformers` passes to templates, so none that only `config.json` names, by its id.
    pub fn special_texts(&self) -> Vec<(String, String)> {
        self.named.clone()
    }

    /// Returns the ids of all special tokens.
    pub fn special_ids(&self) -> HashSet<u32> {
        let added = self.inner.get_added_tokens_decoder();
        added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect()
    }

    /// Whether a pre-tokenizer splits texts into words.
    pub fn has_words(&self) -> bool {
        self.inner.get_pre_tokenizer().is_some()
    }

    /// Returns the decoded text of every token, indexed by id; empty for unused ids.
    pub fn vocabulary(&self) -> Vec<String> {
        (0..self.vocab_size() as u32).map(|id| self.inner.decode(&[id], false).unwrap_or_default()).collect()
    }
}
