//! The tokens of a tokenizer with their types in llama.cpp.

use std::collections::HashMap;
use tokenizers::AddedToken;

/// Types of tokens.
pub mod types {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    /// A special token, which has no text.
    pub const CONTROL: i32 = 3;
    /// An added token, which is found in a text before anything else.
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// The parts of a tokenizer that depend on its kind.
pub struct Kind {
    pub model: &'static str,
    pub pre: &'static str,
    pub scores: HashMap<u32, f32>,
    pub merges: Vec<String>,
    pub adds_space: Option<bool>,
    pub notes: Vec<String>,
}

/// A vocabulary, added tokens included, and which of its tokens were added.
pub struct Vocabulary<'a> {
    pub ids: &'a HashMap<String, u32>,
    pub added: &'a HashMap<u32, AddedToken>,
}

impl Vocabulary<'_> {
    /// Refuses added tokens with properties that llama.cpp does not have.
    ///
    /// # Errors
    /// Such a token.
    pub fn check_added(&self) -> Result<(), String> {
        let strips = |token: &&AddedToken| token.lstrip || token.rstrip || token.single_word;
        match self.added.values().filter(strips).min_by_key(|token| &token.content) {
            None => Ok(()),
            Some(token) => Err(format!(
                "the added token {:?} has lstrip, rstrip or single_word, which llama.cpp does not have",
                token.content
            )),
        }
    }

    /// Whether a token is one of the model, not an added one.
    pub fn is_own(&self, id: u32) -> bool {
        !self.added.contains_key(&id)
    }

    /// Returns tokens and types by id. Ids without a token get an unused one.
    pub fn tokens(&self, rows: usize, unknown: Option<&str>, is_sentencepiece: bool) -> (Vec<String>, Vec<i32>) {
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![types::UNUSED; rows];
        for (text, &id) in self.ids {
            let kind = match self.added.get(&id) {
                _ if unknown == Some(text.as_str()) => types::UNKNOWN,
                Some(token) if token.special => types::CONTROL,
                Some(_) => types::USER_DEFINED,
                None if is_sentencepiece && byte(text).is_some() => types::BYTE,
                None => types::NORMAL,
            };
            // Such a token is compared with the text before its spaces are replaced.
            let as_in_text = is_sentencepiece && kind == types::USER_DEFINED;
            tokens[id as usize] = if as_in_text { text.replace('\u{2581}', " ") } else { text.clone() };
            kinds[id as usize] = kind;
        }
        (tokens, kinds)
    }
}

/// Returns the value of a byte's token in SentencePiece's vocabularies, such as `<0x0A>`.
pub fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_written_so = digits.len() == 2 && digits.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_written_so)
}
