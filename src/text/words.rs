//! Texts that are divided into words already: which token is whose.

use super::tokenizer::{Encoded, Tokenizer, failed};
use crate::error::Result;
use tokenizers::PreTokenizerWrapper;

/// A tokenizer of words, each by itself, as `transformers` has it with `is_split_into_words=True`.
pub struct WordTokenizer {
    tokenizer: Tokenizer,
}

/// An encoded list of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedWords {
    /// The tokens of all words, special tokens included.
    pub encoded: Encoded,
    /// `[words]`: the place of each word's first token; `None` for a word that has none, because the tokenizer drops
    /// all of its characters or because it was cut off.
    pub firsts: Vec<Option<u32>>,
}

impl WordTokenizer {
    /// The same tokenizer for words. Where it is byte-level BPE that takes spaces for parts of words (GPT-2, RoBERTa),
    /// every word gets one in front: Hugging Face's `add_prefix_space=True`, which its own token classification sets.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let mut tokenizer = tokenizer.clone();
        if let Some(&PreTokenizerWrapper::ByteLevel(bytes)) = tokenizer.inner.get_pre_tokenizer() {
            tokenizer.inner.with_pre_tokenizer(Some(bytes.add_prefix_space(true)));
        }
        WordTokenizer { tokenizer }
    }

    /// Encodes words to at most `max_length` tokens, special tokens included; a word may be cut in its middle.
    ///
    /// # Errors
    /// `max_length` leaves no room for words beside the special tokens (exit 2).
    pub fn encode(&self, words: &[String], max_length: usize) -> Result<EncodedWords> {
        let room = self.tokenizer.room(false, max_length)?;
        let tokens = self.tokenizer.inner.encode(words, false).map_err(failed)?;
        let kept = tokens.len().min(room);
        let (encoded, owners) = self.tokenizer.join(tokens, None, (kept, 0))?;
        let mut firsts = vec![None; words.len()];
        for (place, word) in (0..).zip(owners).filter_map(|(place, word)| Some((place, word? as usize))) {
            firsts[word].get_or_insert(place);
        }
        Ok(EncodedWords { encoded, firsts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn check(reference: &str) {
        let reference: Value = serde_json::from_str(reference).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), reference["tokenizer"].to_string()).unwrap();
        let tokenizer = WordTokenizer::new(&Tokenizer::from_folder(dir.path()).unwrap());
        let cases = reference["cases"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let words: Vec<String> = serde_json::from_value(case["words"].clone()).unwrap();
            let found = tokenizer.encode(&words, case["max_length"].as_u64().unwrap() as usize).unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let firsts: Vec<Option<u32>> = serde_json::from_value(case["firsts"].clone()).unwrap();
            assert_eq!((found.encoded.ids, found.firsts), (ids, firsts), "{case}");
        }
    }

    #[test]
    fn words_become_the_tokens_of_transformers() {
        check(include_str!("../../tests/reference/words/wordpiece.json"));
        check(include_str!("../../tests/reference/words/bytes.json"));
        check(include_str!("../../tests/reference/words/unigram.json"));
    }
}
