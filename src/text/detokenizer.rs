//! Tokens one by one to text, and sequences at which a text stops.

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// The replacement character, to which the bytes of an incomplete character are decoded.
const INCOMPLETE: char = '\u{fffd}';
/// Maximum number of tokens that wait for the end of a character. A character has at most four bytes; only invalid
/// bytes and many special tokens take more.
const WAITING: usize = 32;

/// A text that grows by tokens.
///
/// A token is decoded together with the few before it, because a decoder treats the first token of a text in another
/// way than the others; so the cost of a token does not grow with the text.
///
/// What was sent stays, also where a later token changes it: with the byte tokens of SentencePiece, an invalid byte
/// after a character makes its bytes invalid too. The rest then follows what was sent.
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    stops: Vec<String>,
    ids: Vec<u32>,
    /// The last tokens, which are decoded again. The text of the first `read` was complete.
    window: Vec<u32>,
    read: usize,
    /// The part of the text of `window` that is in `text`.
    taken: String,
    text: String,
    /// Number of bytes of `text` that were returned.
    sent: usize,
    stopped: bool,
}

impl<'a> Detokenizer<'a> {
    /// Returns an empty text that stops before the first of the sequences `stops`, none of which is empty.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> Self {
        let (ids, window, taken, text) = (Vec::new(), Vec::new(), String::new(), String::new());
        Detokenizer { tokenizer, stops, ids, window, read: 0, taken, text, sent: 0, stopped: false }
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
        self.window.push(id);
        self.take()?;
        self.stop();
        let certain = if self.stopped { self.text.len() } else { self.text.len() - self.held_back() };
        Ok(self.send_to(certain))
    }

    /// Ends the text; returns the rest of it, and the whole text. Without a stop sequence, this is the text of all
    /// tokens together.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn finish(&mut self) -> Result<(String, String)> {
        let mut whole = None;
        if !self.stopped {
            let all = self.tokenizer.decode(&self.ids)?;
            // What was sent cannot be changed.
            if all.starts_with(&self.text[..self.sent]) {
                self.text = all;
            } else {
                let now = self.tokenizer.decode(&self.window)?;
                let rest = self.added(&now)?;
                self.text.push_str(&rest);
                whole = Some(all);
            }
            self.stop();
        }
        let rest = self.send_to(self.text.len()).to_owned();
        let whole = whole.filter(|_| !self.stopped).unwrap_or_else(|| self.text.clone());
        Ok((rest, whole))
    }

    /// Moves the complete characters at the end of the window to the text.
    fn take(&mut self) -> Result<()> {
        let now = self.tokenizer.decode(&self.window)?;
        let complete = now.trim_end_matches(INCOMPLETE);
        let is_late = self.window.len() - self.read > WAITING;
        if is_late && self.tokenizer.decode(&self.window[self.read..])?.is_empty() {
            // Special tokens.
            self.window.truncate(self.read);
            return Ok(());
        }
        if complete.len() < now.len() && !is_late {
            if let Some(new) = complete.strip_prefix(self.taken.as_str()) {
                self.text.push_str(new);
                self.taken = complete.to_owned();
            }
            return Ok(());
        }
        let mut new = self.added(&now)?;
        if new.is_empty() && !is_late {
            return Ok(());
        }
        self.window.drain(..self.read);
        self.read = self.window.len();
        self.taken = self.tokenizer.decode(&self.window)?;
        if new.ends_with(INCOMPLETE) && self.taken.ends_with(INCOMPLETE) {
            // The last character may still become complete.
            new.pop();
            self.taken.pop();
        }
        self.text.push_str(&new);
        Ok(())
    }

    /// Returns the text of the window, which is `now`, after what was taken of it.
    fn added(&self, now: &str) -> Result<String> {
        if let Some(new) = now.strip_prefix(self.taken.as_str()) {
            return Ok(new.to_owned());
        }
        // What was taken has changed. The last token of it that has a text tells where the new text begins.
        for start in (0..self.read).rev() {
            let known = self.tokenizer.decode(&self.window[start..self.read])?.chars().count();
            if known > 0 {
                return Ok(self.tokenizer.decode(&self.window[start..])?.chars().skip(known).collect());
            }
        }
        Ok(now.to_owned())
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
    use serde_json::{Value, json};

    /// A tokenizer of these tokens, of which the first is special, with a decoder.
    fn tokenizer(tokens: &[&str], decoder: &Value) -> (tempfile::TempDir, Tokenizer) {
        let vocab: serde_json::Map<_, _> =
            tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": 0, "content": tokens[0], "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": decoder,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                      "merges": []}
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        (dir, tokenizer)
    }

    /// Bytes as GPT-2 writes them.
    fn byte_level() -> (tempfile::TempDir, Tokenizer) {
        let tokens = ["<end>", "a", "b", "c", "\u{120}a", "\u{c3}", "\u{a9}", "\u{c3}\u{a9}", "\u{a9}\u{c3}"];
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        tokenizer(&tokens, &decoder)
    }

    /// Words and bytes as in Llama's SentencePiece models: 3 to 6 are the bytes of an emoji, 7 is never valid.
    fn byte_fallback() -> (tempfile::TempDir, Tokenizer) {
        let tokens = ["<end>", "\u{2581}a", "b", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xFF>"];
        let steps = json!([{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                           {"type": "ByteFallback"}, {"type": "Fuse"},
                           {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
        tokenizer(&tokens, &json!({"type": "Sequence", "decoders": steps}))
    }

    /// The pieces of a text, the rest, and the whole.
    fn split(tokenizer: &Tokenizer, ids: &[u32], stops: &[&str]) -> (Vec<String>, String, String) {
        let mut text = Detokenizer::new(tokenizer, stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut pieces = Vec::new();
        for &id in ids {
            pieces.push(text.push(id).unwrap().to_owned());
            assert!(text.window.len() <= 2 * WAITING + 1, "{} tokens", text.window.len());
            if text.has_stopped() {
                break;
            }
        }
        let (rest, whole) = text.finish().unwrap();
        (pieces, rest, whole)
    }

    /// The same of bytes, where nothing that was sent changes.
    fn pieces(ids: &[u32], stops: &[&str]) -> (Vec<String>, String, String) {
        let (_dir, tokenizer) = byte_level();
        let (pieces, rest, whole) = split(&tokenizer, ids, stops);
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

    /// An invalid byte makes the bytes of the character before it invalid too, after it was sent.
    #[test]
    fn nothing_is_lost_after_an_invalid_byte() {
        let (_dir, tokenizer) = byte_fallback();
        let emoji: [u32; 4] = [3, 4, 5, 6];
        let (found, rest, whole) = split(&tokenizer, &[&emoji[..], &[7, 1, 2]].concat(), &[]);
        assert_eq!(found, ["", "", "", "\u{1f600}", "", "\u{fffd} a", "b"]);
        assert_eq!((rest.as_str(), whole), ("", "\u{fffd}".repeat(5) + " ab"));
        // At the end, and before a stop sequence.
        let (found, rest, whole) = split(&tokenizer, &[&[1_u32][..], &emoji, &[7]].concat(), &[]);
        assert_eq!((found.concat(), rest.as_str()), ("a\u{1f600}".to_owned(), "\u{fffd}"));
        assert_eq!(whole, "a".to_owned() + &"\u{fffd}".repeat(5));
        let (found, rest, whole) = split(&tokenizer, &[&emoji[..], &[7, 2, 1]].concat(), &["b"]);
        assert_eq!((found.concat(), rest.as_str()), ("\u{1f600}\u{fffd}".to_owned(), ""));
        assert_eq!(whole, "\u{1f600}\u{fffd}");
        // Characters one after another are complete one by one.
        let (found, _, whole) = split(&tokenizer, &[emoji, emoji].concat(), &[]);
        assert_eq!((found[3].as_str(), found[7].as_str()), ("\u{1f600}", "\u{1f600}"));
        assert_eq!(found.concat(), whole);
    }

    /// A model may repeat one token for ever: the tokens that are decoded again stay few.
    #[test]
    fn a_run_without_complete_characters_is_sent_in_parts() {
        let ((_dir, fallback), (_other, level)) = (byte_fallback(), byte_level());
        for (tokenizer, id) in [(&fallback, 7), (&fallback, 0), (&level, 6), (&level, 5), (&level, 8), (&level, 0)] {
            let ids: Vec<u32> = [&[1_u32][..], &[id; 200], &[1, 2]].concat();
            let (found, rest, whole) = split(tokenizer, &ids, &[]);
            assert_eq!(found.concat() + &rest, whole, "token {id}");
            let before = found[..150].concat();
            assert!(id == 0 || before.chars().count() > 50, "token {id}: {before}");
            assert!(whole.ends_with("ab"), "token {id}: {whole}");
        }
    }
}
