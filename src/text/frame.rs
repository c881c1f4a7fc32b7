//! What language models ask of a tokenizer: the tokens of a text alone, and what stands around them.

use super::special_tokens::Special;
use super::tokenizer::{Tokenizer, failed};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::ops::Range;

/// The tokens of a text alone, n of them, without special ones around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    /// Token ids `[n]`.
    pub ids: Vec<u32>,
    /// The word of each token `[n]`, as the tokenizer divides a text into words.
    pub words: Vec<Option<u32>>,
    /// The bytes of the text behind each token `[n]`.
    pub bytes: Vec<Range<usize>>,
}

/// The special tokens that a tokenizer puts around a text: of each its id and its segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    pub before: Vec<(u32, u8)>,
    /// Between the two texts of a pair.
    pub between: Vec<(u32, u8)>,
    pub after: Vec<(u32, u8)>,
    /// The segments of the first and of the second text.
    pub segments: [u8; 2],
}

impl Frame {
    /// How many special tokens there are.
    pub fn len(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// What is to be put before and after a text of these tokens, so that no special token stands there twice.
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

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tokenizer {
    /// The tokens of a text alone.
    ///
    /// # Errors
    /// The tokenizer's own.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// The same with what the tokens stand for; this takes longer.
    ///
    /// # Errors
    /// The tokenizer's own.
    pub fn pieces(&self, text: &str) -> Result<Pieces> {
        let encoding = self.inner.encode(text, false).map_err(failed)?;
        Ok(Pieces {
            ids: encoding.get_ids().to_vec(),
            words: encoding.get_word_ids().to_vec(),
            bytes: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    /// What this tokenizer puts around a text, or around the two of a pair.
    ///
    /// # Errors
    /// The tokenizer's own; one that repeats a text or leaves it out (exit 2).
    pub fn frame(&self, pair: bool) -> Result<Frame> {
        // No vocabulary has these ids.
        const TEXTS: [u32; 2] = [u32::MAX, u32::MAX - 1];
        let text = |id: u32, segment: u32| {
            tokenizers::Encoding::from_tokens(vec![tokenizers::Token::new(id, String::new(), (0, 0))], segment)
        };
        let encoding = self.framed(text(TEXTS[0], 0), pair.then(|| text(TEXTS[1], 1)))?;
        let tokens: Vec<(u32, u8)> =
            encoding.get_ids().iter().zip(encoding.get_type_ids()).map(|(&id, &segment)| (id, segment as u8)).collect();
        let place = |text: u32| {
            let mut places = tokens.iter().enumerate().filter(|(_, (id, _))| *id == text).map(|(place, _)| place);
            places.next().filter(|_| places.next().is_none())
        };
        let (first, second) = (place(TEXTS[0]), place(TEXTS[1]));
        let odd = || Error::input(format!("{}: the tokenizer's template is unusual", self.folder.display()));
        let first = first.ok_or_else(odd)?;
        let last = if pair { second.filter(|&second| second > first).ok_or_else(odd)? } else { first };
        Ok(Frame {
            before: tokens[..first].to_vec(),
            between: tokens[first + 1..last.max(first + 1)].to_vec(),
            after: tokens[last + 1..].to_vec(),
            segments: [tokens[first].1, tokens[last].1],
        })
    }

    /// The id of a special token: the one that the folder names, where it is in the vocabulary. A mask token goes by its
    /// usual names too.
    pub fn special(&self, special: Special) -> Option<u32> {
        let usual: &[&str] = if special == Special::Mask { &["[MASK]", "<mask>"] } else { &[] };
        let is_special = |id: &u32| self.inner.get_added_tokens_decoder().get(id).is_some_and(|token| token.special);
        let usual = || usual.iter().filter_map(|token| self.inner.token_to_id(token)).find(is_special);
        self.special.id(special, |token| self.inner.token_to_id(token)).or_else(usual)
    }

    /// A token as the vocabulary has it; empty for an id without one.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// The special tokens by the names that a template knows them by: `eos_token` and its text.
    pub fn special_texts(&self) -> Vec<(&'static str, String)> {
        self.special.texts(|id| self.inner.id_to_token(id))
    }

    /// The ids of all tokens that stand for no text.
    pub fn special_ids(&self) -> HashSet<u32> {
        let added = self.inner.get_added_tokens_decoder();
        added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect()
    }

    /// Whether it divides a text into words.
    pub fn has_words(&self) -> bool {
        self.inner.get_pre_tokenizer().is_some()
    }

    /// The text of every token, by id; empty for an id without a token.
    pub fn vocabulary(&self) -> Vec<String> {
        (0..self.vocab_size() as u32).map(|id| self.inner.decode(&[id], false).unwrap_or_default()).collect()
    }
}
