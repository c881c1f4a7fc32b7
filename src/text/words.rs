//! Which tokens belong to which word: tokenization of pre-tokenized text, and marks of the words of a text.

use super::parallel::on_all_cores;
use super::special_tokens::Special;
use super::tokenizer::{Encoded, Tokenizer, failed};
use crate::error::Result;
use std::collections::HashSet;
use tokenizers::PreTokenizerWrapper;

/// The mark of a special token, which belongs to no word.
pub const NO_WORD: u8 = 0;
/// The mark of the first token of a text's first word.
pub const FIRST_WORD: u8 = 1;
/// The mark of the first token of another word.
pub const WORD: u8 = 2;
/// The mark of a word's other tokens.
pub const WORD_PART: u8 = 3;

/// Returns the mark of each token `[n]` of a text or a pair, given the tokens' segments and the words that the
/// pre-tokenizer has split the texts into, which count from 0 in each text; `special` are the ids of special tokens
/// that are no words.
pub fn marks(encoded: &Encoded, word_ids: &[Option<u32>], special: &HashSet<u32>) -> Vec<u8> {
    let mut before: Option<(u32, u8)> = None;
    let mut marks = Vec::with_capacity(word_ids.len());
    for ((id, segment), word) in encoded.ids.iter().zip(&encoded.type_ids).zip(word_ids) {
        let Some(word) = word.filter(|_| !special.contains(id)) else {
            // A special token within a text does not begin another text.
            if word.is_none() {
                before = None;
            }
            marks.push(NO_WORD);
            continue;
        };
        let inside = marks.last().is_some_and(|&mark| mark != NO_WORD);
        marks.push(match before {
            Some((last, of)) if of == *segment && word == last && inside => WORD_PART,
            Some((last, of)) if of == *segment && word >= last => WORD,
            _ => FIRST_WORD,
        });
        before = Some((word, *segment));
    }
    marks
}

impl Tokenizer {
    /// Encodes as [`Tokenizer::encode_batch`], and marks the words; this is slower.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], for the first input that fails.
    pub fn encode_words(&self, inputs: &[(&str, Option<&str>)], max_length: usize) -> Result<Vec<(Encoded, Vec<u8>)>> {
        let special = self.wordless_ids();
        let tokens = |text: &str| self.inner.encode(text, false).map_err(failed);
        let each = |&(text, pair): &(&str, Option<&str>)| {
            let (encoded, word_ids) = self.encode_by(text, pair, max_length, tokens)?;
            let marks = marks(&encoded, &word_ids, &special);
            Ok((encoded, marks))
        };
        on_all_cores(inputs, each).into_iter().collect()
    }

    /// Returns the ids of the special tokens that are no words: all but the unknown token, which stands for one.
    pub fn wordless_ids(&self) -> HashSet<u32> {
        let usual = ["[UNK]", "<unk>"].into_iter().filter_map(|token| self.inner.token_to_id(token));
        let unknown: Vec<u32> = usual.chain(self.special(Special::Unk)).collect();
        self.special_ids().into_iter().filter(|id| !unknown.contains(id)).collect()
    }

    /// Returns the tokens of words (a phrase, separated by whitespace) within a text, and at its beginning.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn forms(&self, phrase: &str) -> Result<[Vec<u32>; 2]> {
        const BEFORE: &str = "a";
        let all = self.tokenize(&format!("{BEFORE} {phrase}"))?;
        let before = all.word_ids.iter().take_while(|word| Some(*word) == all.word_ids.first()).count();
        Ok([all.ids[before..].to_vec(), self.ids(phrase)?])
    }
}

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
    /// Word of each token `[n]`; `None` for special tokens.
    pub word_ids: Vec<Option<u32>>,
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
        for (position, word) in (0..).zip(&word_ids).filter_map(|(position, word)| Some((position, (*word)? as usize)))
        {
            firsts[word].get_or_insert(position);
        }
        Ok(EncodedWords { encoded, firsts, word_ids })
    }

    /// Returns the tokens of words (a phrase, separated by whitespace) within a list of words, and at its beginning.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn forms(&self, phrase: &str) -> Result<[Vec<u32>; 2]> {
        let words: Vec<String> = phrase.split_whitespace().map(str::to_owned).collect();
        let within = [&["a".to_owned()], &words[..]].concat();
        let encode = |words: &[String]| self.tokenizer.inner.encode(words, false).map_err(failed);
        let (within, first) = (encode(&within)?, encode(&words)?);
        let before = within.get_word_ids().iter().take_while(|word| **word == Some(0)).count();
        Ok([within.get_ids()[before..].to_vec(), first.get_ids().to_vec()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn tokenizer(reference: &Value) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), reference["tokenizer"].to_string()).unwrap();
        Tokenizer::from_folder(dir.path()).unwrap()
    }

    fn check(reference: &str) {
        let reference: Value = serde_json::from_str(reference).unwrap();
        let tokenizer = WordTokenizer::new(&tokenizer(&reference));
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

    /// The marks are those of the word ids that the `tokenizers` crate gives for the same texts in Python.
    #[test]
    fn words_are_marked_and_have_their_tokens_elsewhere() {
        let of = |reference: &str, pair: &[u8], alike: bool| {
            let tokenizer = tokenizer(&serde_json::from_str(reference).unwrap());
            let (text, second) = ("b c, d", Some("c"));
            let (encoded, marks) = tokenizer.encode_words(&[(text, second)], 64).unwrap().remove(0);
            assert_eq!((&encoded, &marks[..]), (&tokenizer.encode(text, second, 64).unwrap(), pair));
            let [within, first] = tokenizer.forms("b c").unwrap();
            assert_eq!(within == first, alike);
            assert_eq!([tokenizer.ids("a").unwrap(), within].concat(), tokenizer.ids("a b c").unwrap());
            assert_eq!(first, tokenizer.ids("b c").unwrap());
            let [within, first] = WordTokenizer::new(&tokenizer).forms("b c").unwrap();
            assert!(within == first && !within.is_empty());
        };
        of(include_str!("../../tests/reference/words/wordpiece.json"), &[0, 1, 2, 2, 2, 0, 1, 0], true);
        of(include_str!("../../tests/reference/words/bytes.json"), &[0, 1, 2, 3, 2, 2, 3, 0, 0, 1, 0], false);
        of(include_str!("../../tests/reference/words/unigram.json"), &[0, 1, 3, 2, 3, 3, 2, 3, 0, 0, 1, 3, 0], true);
    }

    #[test]
    fn tokens_match_transformers() {
        check(include_str!("../../tests/reference/words/wordpiece.json"));
        check(include_str!("../../tests/reference/words/bytes.json"));
        check(include_str!("../../tests/reference/words/unigram.json"));
    }
}
