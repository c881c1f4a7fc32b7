//! Tokenization of pre-tokenized text, mapping words to tokens.

use super::tokenizer::{Encoded, Tokenizer, failed};
use crate::error::Result;
use tokenizers::PreTokenizerWrapper;

/// A tokenizer for lists of words, as in `transformers` with `is_split_into_words=True`.
pub struct WordTokenizer {
    tokenizer: Tokenizer,
}

/// An encoded list of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedWords {
    /// The tokens of all words, special tokens included.
    pub encoded: Encoded,
    /// `[words]`: position of the first token of each word; `None` for a word without tokens, because the tokenizer
    /// drops all of its characters or the text was truncated.
    pub firsts: Vec<Option<u32>>,
}

impl WordTokenizer {
    /// Creates a word tokenizer. Byte-level BPE (GPT-2, RoBERTa) adds a space before every word: Hugging Face's
    /// `add_prefix_space=True`, which its token classification examples set.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let mut tokenizer = tokenizer.clone();
        if let Some(&PreTokenizerWrapper::ByteLevel(bytes)) = tokenizer.inner.get_pre_tokenizer() {
            tokenizer.inner.with_pre_tokenizer(Some(bytes.add_prefix_space(true)));
        }
        WordTokenizer { tokenizer }
    }

    /// Encodes words, truncated to `max_length` tokens, special tokens included; a word may be truncated in the middle.
    ///
    /// # Errors
    /// `max_length` leaves no room for words besides the special tokens (exit 2).
    pub fn encode(&self, words: &[String], max_length: usize) -> Result<EncodedWords> {
        let room = self.tokenizer.room(false, max_length)?;
        let tokens = self.tokenizer.inner.encode(words, false).map_err(failed)?;
        let kept = tokens.len().min(room);
        let (encoded, word_ids) = self.tokenizer.join(tokens, None, (kept, 0))?;
        let mut firsts = vec![None; words.len()];
        for (position, word) in (0..).zip(word_ids).filter_map(|(position, word)| Some((position, word? as usize))) {
            firsts[word].get_or_insert(position);
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
    fn tokens_match_transformers() {
        check(include_str!("../../tests/reference/words/wordpiece.json"));
        check(include_str!("../../tests/reference/words/bytes.json"));
        check(include_str!("../../tests/reference/words/unigram.json"));
    }
}
