//! Tokens one by one to text, and sequences at which a text stops.

use crate::error::Result;
use crate::text::tokenizer::Tokenizer;

/// The replacement character, to which the bytes of an incomplete character are decoded.
const INCOMPLETE: char = '\u{fffd}';

/// A text that grows by tokens.
///
/// A token is decoded together with the few before it, because a decoder treats the first token of a text in another
/// way than the others; so the cost of a token does not grow with the text.
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    stops: Vec<String>,
    ids: Vec<u32>,
    /// The tokens from `start` on are decoded again; those before `read` are in `text`.
    start: usize,
    read: usize,
    text: String,
    /// Number of bytes of `text` that were returned.
    sent: usize,
    stopped: bool,
}

impl<'a> Detokenizer<'a> {
    /// Returns an empty text that stops before the first of the sequences `stops`, none of which is empty.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> Self {
        let (ids, text) = (Vec::new(), String::new());
        Detokenizer { tokenizer, stops, ids, start: 0, read: 0, text, sent: 0, stopped: false }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Whether the text has stopped at a stop sequence.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; returns the text that is certain now: not the beginning of a character, nor of a stop sequence.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn push(&mut self, id: u32) -> Result<&str> {
        self.ids.push(id);
        let before = self.tokenizer.decode(&self.ids[self.start..self.read])?;
        let now = self.tokenizer.decode(&self.ids[self.start..])?;
        if now.len() > before.len() && now.is_char_boundary(before.len()) && !now.ends_with(INCOMPLETE) {
            self.text.push_str(&now[before.len()..]);
            (self.start, self.read) = (self.read, self.ids.len());
            self.stop();
        }
        let certain = if self.stopped { self.text.len() } else { self.text.len() - self.held_back() };
        Ok(self.send_to(certain))
    }

    /// Ends the text; returns the rest of it, and the whole text. Without a stop sequence, this is the text of all
    /// tokens together.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn finish(&mut self) -> Result<(String, String)> {
        if !self.stopped {
            let whole = self.tokenizer.decode(&self.ids)?;
            // What was sent cannot be changed.
            if whole.starts_with(&self.text[..self.sent]) {
                self.text = whole;
            }
            self.stop();
        }
        let rest = self.send_to(self.text.len()).to_owned();
        Ok((rest, self.text.clone()))
    }

    /// Cuts the text at the first stop sequence.
    fn stop(&mut self) {
        // What was sent has no beginning of one.
        let found = self.stops.iter().filter_map(|stop| self.text[self.sent..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(self.sent + at);
            self.stopped = true;
        }
    }

    /// Returns the number of bytes at the end of the text with which a stop sequence may begin.
    fn held_back(&self) -> usize {
        let unsent = &self.text[self.sent..];
        let begins = |rest: &str| self.stops.iter().any(|stop| stop.starts_with(rest));
        unsent.char_indices().map(|(at, _)| &unsent[at..]).find(|rest| begins(rest)).map_or(0, str::len)
    }

    fn send_to(&mut self, end: usize) -> &str {
        let start = self.sent.min(end);
        self.sent = self.sent.max(end);
        &self.text[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A tokenizer of bytes: token 0 is special, the others are bytes as GPT-2 writes them.
    fn bytes() -> (tempfile::TempDir, Tokenizer) {
        let letters = ["a", "b", "c", "\u{120}a", "\u{c3}", "\u{a9}", "\u{c3}\u{a9}"];
        let vocab: serde_json::Map<_, _> =
            ["<end>"].into_iter().chain(letters).zip(0..).map(|(token, id)| (token.to_owned(), json!(id))).collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": 0, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                      "merges": []}
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        (dir, tokenizer)
    }

    /// The pieces of a text, the rest, and the whole.
    fn pieces(ids: &[u32], stops: &[&str]) -> (Vec<String>, String, String) {
        let (_dir, tokenizer) = bytes();
        let mut text = Detokenizer::new(&tokenizer, stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut pieces = Vec::new();
        for &id in ids {
            pieces.push(text.push(id).unwrap().to_owned());
            if text.has_stopped() {
                break;
            }
        }
        let (rest, whole) = text.finish().unwrap();
        assert_eq!(pieces.concat() + &rest, whole);
        (pieces, rest, whole)
    }

    #[test]
    fn characters_come_whole_and_special_tokens_not_at_all() {
        // The bytes of é in one token and in two.
        let (found, rest, whole) = pieces(&[1, 4, 7, 5, 6, 3, 0], &[]);
        assert_eq!(found, ["a", " a", "\u{e9}", "", "\u{e9}", "c", ""]);
        assert_eq!((rest.as_str(), whole.as_str()), ("", "a a\u{e9}\u{e9}c"));
        // A character that stays incomplete comes at the end.
        assert_eq!(pieces(&[1, 5], &[]), (vec!["a".into(), String::new()], "\u{fffd}".into(), "a\u{fffd}".into()));
        let (found, _, whole) = pieces(&[5, 1], &[]);
        assert_eq!((found.concat(), whole), ("\u{fffd}a".to_owned(), "\u{fffd}a".to_owned()));
    }

    #[test]
    fn a_text_stops_before_the_first_stop_sequence() {
        let (found, rest, whole) = pieces(&[1, 2, 3, 1], &["bc"]);
        assert_eq!(found, ["a", "", ""]);
        assert_eq!((rest.as_str(), whole.as_str()), ("", "a"));
        // What only began like one is returned once that is certain.
        assert_eq!(pieces(&[1, 2, 1, 2], &["bc", "abb"]).0, ["", "", "ab", ""]);
        assert_eq!(pieces(&[1, 2, 1, 2], &["bc", "abb"]).1, "ab");
        // Of several, the first in the text; and within a token.
        assert_eq!(pieces(&[1, 2, 3], &["c", "b"]).2, "a");
        assert_eq!(pieces(&[2, 4, 2], &["a"]).2, "b ");
        assert_eq!(pieces(&[2, 7, 7], &["\u{e9}\u{e9}"]).2, "b");
    }
}
