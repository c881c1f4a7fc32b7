//! Hugging Face tokenizers: text to token ids.
//!
//! Padding and truncation stored in `tokenizer.json` are ignored: batches are packed without padding, and the
//! configuration sets the truncation.

use super::parallel::on_all_cores;
use super::pretrained::{self, Pretrained};
use super::special_tokens::SpecialTokens;
use crate::error::{Error, Result};
use crate::hub::TOKENIZER_FILES;
use std::path::{Path, PathBuf};
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, TruncationDirection};

/// A tokenizer without padding and truncation.
#[derive(Clone)]
pub struct Tokenizer {
    /// Without its post-processor, because even one that adds no tokens may trim offsets.
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) processor: Option<PostProcessorWrapper>,
    pub(super) folder: PathBuf,
    pub(super) special: SpecialTokens,
    /// The special tokens that chat templates have, by name.
    pub(super) named: Vec<(String, String)>,
    /// Where a long text is truncated (`truncation_side`).
    pub(super) side: TruncationDirection,
}

/// One encoded input, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids `[n]`.
    pub ids: Vec<u32>,
    /// Token type id `[n]`: 0, or 1 in the second text.
    pub type_ids: Vec<u8>,
    pub truncated: bool,
}

impl Tokenizer {
    /// The files that determine a tokenizer and its chat template, in any folder.
    pub const FILES: &'static [&'static str] = TOKENIZER_FILES;

    /// Whether one of these files is a vocabulary, without which there is no tokenizer.
    pub fn is_vocabulary(name: &str) -> bool {
        pretrained::is_vocabulary(name)
    }

    /// Loads the tokenizer of a Hugging Face folder as `transformers` does: from `tokenizer.json` or the files of a slow
    /// tokenizer, and the settings beside them.
    ///
    /// # Errors
    /// Exit 2: the folder has no tokenizer, an invalid one, or one that cannot be rebuilt.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let Pretrained { tokenizer: mut inner, defaults, named, truncates_left } = pretrained::load(dir)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let special = SpecialTokens::of_folder(dir)?.with_defaults(defaults);
        let side = if truncates_left { TruncationDirection::Left } else { TruncationDirection::Right };
        Ok(Tokenizer { inner, processor, folder: dir.to_owned(), special, named, side })
    }

    /// Returns the files that a folder without `tokenizer.json` needs besides its own: name and content.
    ///
    /// # Errors
    /// As [`Self::from_folder`].
    pub fn missing_files(dir: &Path) -> Result<Vec<(&'static str, String)>> {
        pretrained::missing_files(dir)
    }

    /// Encodes one text, or a pair, truncated to `max_length` tokens, special tokens included. Pairs are truncated as
    /// with Hugging Face's `longest_first`.
    ///
    /// # Errors
    /// `max_length` leaves no room for text besides the special tokens (exit 2).
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<Encoded> {
        self.encode_by(text, pair, max_length, |text| self.tokens(text)).map(|(encoded, _)| encoded)
    }

    /// Encodes as [`Self::encode`] with `tokens`, which tokenizes a text. Also returns the word index of each token.
    pub(super) fn encode_by(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: usize,
        tokens: impl Fn(&str) -> Result<Encoding>,
    ) -> Result<(Encoded, Vec<Option<u32>>)> {
        let room = self.room(pair.is_some(), max_length)?;
        let first = tokens(text)?;
        let second = pair.map(tokens).transpose()?;
        let kept = longest_first(first.len(), second.as_ref().map_or(0, |s| s.len()), room);
        self.join(first, second, kept)
    }

    /// Encodes a pair, truncating only the first text, as Hugging Face's `only_first`. Returns `None` if the second
    /// text leaves no token for it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_only_first(&self, text: &str, pair: &str, max_length: usize) -> Result<Option<Encoded>> {
        let room = self.room(true, max_length)?;
        let (first, second) = (self.tokens(text)?, self.tokens(pair)?);
        let kept = (first.len().min(room.saturating_sub(second.len())), second.len());
        if kept.1 > room || (kept.0 == 0 && !first.is_empty()) {
            return Ok(None);
        }
        self.join(first, Some(second), kept).map(|(encoded, _)| Some(encoded))
    }

    /// Whether the post-processor trims whitespace from offsets (`trim_offsets` of byte-level BPE).
    pub(super) fn trims_offsets(&self) -> bool {
        fn trims(value: &serde_json::Value) -> bool {
            let inner = value.get("processors").and_then(|inner| inner.as_array());
            value.get("trim_offsets").and_then(|trims| trims.as_bool()).unwrap_or(false)
                || inner.is_some_and(|inner| inner.iter().any(trims))
        }
        self.processor
            .as_ref()
            .and_then(|processor| serde_json::to_value(processor).ok())
            .is_some_and(|value| trims(&value))
    }

    /// Number of special tokens of one text or of a pair.
    pub(super) fn special_count(&self, pair: bool) -> usize {
        self.processor.as_ref().map_or(0, |p| p.added_tokens(pair))
    }

    /// Number of tokens left for one text or a pair after the special tokens.
    pub(super) fn room(&self, pair: bool, max_length: usize) -> Result<usize> {
        let special = self.special_count(pair);
        if max_length <= special {
            let why = format!("max_length = {max_length} leaves no room for text besides {special} special tokens");
            return Err(Error::input(format!("{why}; raise max_length")));
        }
        Ok(max_length - special)
    }

    fn tokens(&self, text: &str) -> Result<Encoding> {
        self.inner.encode_fast(text, false).map_err(failed)
    }

    /// Truncates one text or a pair to the lengths `kept` and adds the special tokens. Also returns the word index of
    /// each token, for pre-tokenized text or an encoding with words.
    pub(super) fn join(
        &self,
        mut first: Encoding,
        mut second: Option<Encoding>,
        kept: (usize, usize),
    ) -> Result<(Encoded, Vec<Option<u32>>)> {
        let lengths = (first.len(), second.as_ref().map_or(0, |s| s.len()));
        self.truncate(&mut first, kept.0);
        if let Some(second) = &mut second {
            self.truncate(second, kept.1);
            second.set_type_ids(vec![1; kept.1]);
        }
        let encoding = self.post_process(first, second)?;
        let encoded = Encoded {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().iter().map(|&t| t as u8).collect(),
            truncated: kept != lengths,
        };
        Ok((encoded, encoding.get_word_ids().to_vec()))
    }

    /// Calls [`Self::encode`] for many inputs on all cores; results are in input order.
    ///
    /// # Errors
    /// As [`Self::encode`], for the first input that fails.
    pub fn encode_batch(&self, inputs: &[(&str, Option<&str>)], max_length: usize) -> Result<Vec<Encoded>> {
        on_all_cores(inputs, |&(text, pair)| self.encode(text, pair, max_length)).into_iter().collect()
    }

    /// Truncates an encoding and drops the overflow.
    fn truncate(&self, encoding: &mut Encoding, length: usize) {
        encoding.truncate(length, 0, self.side);
        encoding.take_overflowing();
    }

    pub(super) fn post_process(
        &self,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
    ) -> Result<tokenizers::Encoding> {
        let processed = match &self.processor {
            Some(processor) => processor.process(first, second, true),
            None => self.inner.post_process(first, second, true),
        };
        processed.map_err(failed)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Decodes tokens to text, skipping special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| Error::other(format!("the tokenizer failed: {e}")))
    }

    /// Number of rows that the embedding matrix needs: the largest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Returns a token with another id in another tokenizer's vocabulary, and its id in both; `None` if the vocabularies
    /// are the same. Of several, the one with the lowest id.
    pub fn difference(&self, other: &Self) -> Option<(String, [Option<u32>; 2])> {
        let [mine, theirs] = [self, other].map(|tokenizer| tokenizer.inner.get_vocab(true));
        let ids = |token: &String| [mine.get(token).copied(), theirs.get(token).copied()];
        let all = mine.keys().chain(theirs.keys()).map(|token| (ids(token), token));
        let differing = all.filter(|([mine, theirs], _)| mine != theirs);
        let (ids, token) = differing.min_by_key(|(ids, token)| (ids.iter().flatten().min().copied(), *token))?;
        Some((token.clone(), ids))
    }

    /// Returns the BLAKE3 hash of all files that determine the tokens and the chat template, without building a
    /// tokenizer.
    ///
    /// # Errors
    /// The folder has no file of a tokenizer; a file is unreadable (exit 2).
    pub fn fingerprint_of(dir: &Path) -> Result<[u8; 32]> {
        let mut hashes = Vec::new();
        for name in TOKENIZER_FILES.iter().filter(|name| dir.join(name).exists()) {
            let path = dir.join(name);
            let bytes = std::fs::read(&path).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
            Error::refuse_lfs_pointer(&path, &bytes)?;
            hashes.push((name, blake3::hash(&bytes)));
        }
        if hashes.iter().all(|(name, _)| !pretrained::is_vocabulary(name)) {
            pretrained::load(dir)?;
        }
        // The debug format quotes strings, so that different values cannot collide.
        let all = format!("{:?}", (hashes, pretrained::model_class(dir)?, SpecialTokens::of_folder(dir)?));
        Ok(*blake3::hash(all.as_bytes()).as_bytes())
    }
}

/// Converts an unexpected error of the tokenizer.
pub(super) fn failed(e: tokenizers::Error) -> Error {
    Error::other(format!("the tokenizer failed: {e}"))
}

/// Returns the truncated lengths of two texts of `a` and `b` tokens whose sum is at most `limit`.
///
/// The longer text is truncated to the length of the shorter one, then both to half of `limit`. An odd token goes to
/// the longer text (the second if both are equal), as in `tokenizers::utils::truncation`.
fn longest_first(a: usize, b: usize, limit: usize) -> (usize, usize) {
    if a + b <= limit {
        return (a, b);
    }
    let short = a.min(b).min(limit / 2);
    if a > b { (limit - short, short) } else { (short, limit - short) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokenizers::processors::template::TemplateProcessing;
    use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};

    /// Creates a BERT folder whose vocabulary is the special tokens and the letters.
    pub fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let letters = ('a'..='z').map(|c| format!("{c}\n##{c}"));
        let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(letters);
        std::fs::write(dir.path().join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
        dir
    }

    #[test]
    fn truncation_matches_the_tokenizers_crate() {
        let token = || tokenizers::Token::new(0, String::new(), (0, 0));
        let encoding = |n: usize| tokenizers::Encoding::from_tokens((0..n).map(|_| token()).collect(), 0);
        for (a, b, limit) in (0..9).flat_map(|a| (0..9).flat_map(move |b| (0..19).map(move |limit| (a, b, limit)))) {
            let strategy = TruncationStrategy::LongestFirst;
            let params = TruncationParams { max_length: limit, strategy, stride: 0, ..Default::default() };
            let (x, y) = truncate_encodings(encoding(a), Some(encoding(b)), &params).unwrap();
            let lengths = (x.len(), y.unwrap().len());
            assert_eq!(longest_first(a, b, limit), lengths, "{a} + {b} to {limit}");
        }
    }

    #[test]
    fn padding_and_truncation_of_the_file_are_ignored() {
        let (dir, other) = (folder(), tempfile::tempdir().unwrap());
        let mut inner = pretrained::load(dir.path()).unwrap().tokenizer;
        let strategy = tokenizers::PaddingStrategy::Fixed(16);
        inner.with_padding(Some(tokenizers::PaddingParams { strategy, ..Default::default() }));
        inner.with_truncation(Some(TruncationParams { max_length: 3, ..Default::default() })).unwrap();
        inner.save(other.path().join("tokenizer.json"), false).unwrap();

        let (plain, saved) = (Tokenizer::from_folder(dir.path()), Tokenizer::from_folder(other.path()));
        let (plain, saved) = (plain.unwrap(), saved.unwrap());
        let encoded = saved.encode("a b c", None, 8).unwrap();
        assert_eq!((encoded.ids.len(), encoded.truncated), (5, false));
        assert_eq!(encoded, plain.encode("a b c", None, 8).unwrap());
        let fingerprint = |dir: &tempfile::TempDir| Tokenizer::fingerprint_of(dir.path()).unwrap();
        assert_ne!(fingerprint(&dir), fingerprint(&other));
        assert_eq!(saved.vocab_size(), 5 + 52);
    }

    #[test]
    fn pairs_have_segments_and_are_truncated() {
        let dir = folder();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let encoded = tokenizer.encode("A b", Some("c d e f g"), 8).unwrap();
        assert_eq!(encoded.ids, [2, 5, 7, 3, 9, 11, 13, 3]);
        assert_eq!((encoded.type_ids, encoded.truncated), (vec![0, 0, 0, 0, 1, 1, 1, 1], true));
        assert_eq!(tokenizer.encode("", None, 8).unwrap().ids, [2, 3]);
        assert!(tokenizer.encode("a", None, 2).unwrap_err().to_string().contains("raise max_length"));
    }

    #[test]
    fn only_the_first_text_can_be_truncated() {
        let dir = folder();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let encode = |text: &str, max_length| tokenizer.encode_only_first(text, "c d", max_length).unwrap();
        assert_eq!(encode("a b", 7), Some(tokenizer.encode("a b", Some("c d"), 7).unwrap()));
        let cut = encode("a b e f", 6).unwrap();
        assert_eq!((cut.ids, cut.type_ids, cut.truncated), (vec![2, 5, 3, 9, 11, 3], vec![0, 0, 0, 1, 1, 1], true));
        assert_eq!(encode("a b", 5), None, "the first text would be empty");
        assert_eq!(encode("", 5).unwrap().ids, [2, 3, 9, 11, 3]);
        assert_eq!(encode("", 4), None);
    }

    #[test]
    fn a_tokenizer_without_special_tokens_has_segments_too() {
        let (dir, other) = (folder(), tempfile::tempdir().unwrap());
        let mut inner = pretrained::load(dir.path()).unwrap().tokenizer;
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        inner.save(other.path().join("tokenizer.json"), false).unwrap();
        let encoded = Tokenizer::from_folder(other.path()).unwrap().encode("a b", Some("c d e"), 4).unwrap();
        assert_eq!((encoded.ids, encoded.type_ids), (vec![5, 7, 9, 11], vec![0, 0, 1, 1]));
    }

    /// Like XLNet: special tokens at the end, the last one with its own segment.
    #[test]
    fn a_template_determines_the_segments() {
        let (dir, other) = (folder(), tempfile::tempdir().unwrap());
        let mut inner = pretrained::load(dir.path()).unwrap().tokenizer;
        let mut template = TemplateProcessing::builder();
        template.try_single("$A:0 [SEP]:0 [CLS]:2").unwrap().try_pair("$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2").unwrap();
        let template = template.special_tokens(vec![("[CLS]", 2), ("[SEP]", 3)]).build().unwrap();
        inner.with_post_processor(Some(template));
        inner.save(other.path().join("tokenizer.json"), false).unwrap();
        let tokenizer = Tokenizer::from_folder(other.path()).unwrap();
        let single = tokenizer.encode("a b", None, 8).unwrap();
        assert_eq!((single.ids, single.type_ids), (vec![5, 7, 3, 2], vec![0, 0, 0, 2]));
        let pair = tokenizer.encode("a b", Some("c d e"), 7).unwrap();
        assert_eq!((pair.ids, pair.type_ids), (vec![5, 7, 3, 9, 11, 3, 2], vec![0, 0, 0, 1, 1, 1, 2]));
    }

    #[test]
    fn a_batch_keeps_the_input_order() {
        let dir = folder();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let texts: Vec<String> = (0..500).map(|i| "x y z ".repeat(i % 7)).collect();
        let inputs: Vec<(&str, Option<&str>)> = texts.iter().map(|t| (t.as_str(), None)).collect();
        let batch = tokenizer.encode_batch(&inputs, 10).unwrap();
        for (input, encoded) in inputs.iter().zip(batch) {
            assert_eq!(encoded, tokenizer.encode(input.0, None, 10).unwrap());
        }
    }

    #[test]
    fn a_missing_tokenizer_is_an_error_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for message in [Tokenizer::from_folder(dir.path()).err(), Tokenizer::fingerprint_of(dir.path()).err()] {
            let message = message.unwrap().to_string();
            assert!(message.contains("no tokenizer.json") && message.contains("save_pretrained"), "{message}");
        }
        std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
        assert!(Tokenizer::from_folder(dir.path()).err().unwrap().to_string().contains("invalid tokenizer"));
    }
}
