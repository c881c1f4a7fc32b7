//! Encodes documents for masked language modeling, and texts with masks to fill.

use super::corpus::{Corpus, DocumentFormat};
use crate::data::example::NO_LABEL;
use crate::data::masking::{Masking, WORD_PART, WORD_START};
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::{Collation, Example, Label};
use crate::error::{Error, Result};
use crate::text::documents::{self, Document, DocumentSource};
use crate::text::files::Files;
use crate::text::records;
use crate::text::special_tokens::Special;
use crate::text::token_template::TokenTemplate;
use crate::text::tokenizer::Tokenizer;
use serde_json::json;
use std::collections::HashSet;

/// The masking settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskingOptions {
    /// Fraction of tokens to predict.
    pub probability: f64,
    /// Whether to mask all tokens of a word together.
    pub whole_words: bool,
}

/// A token id and its mark ([`WORD_START`], [`WORD_PART`] or [`NO_LABEL`]).
pub(super) type Marked = (u32, i32);

impl MaskingOptions {
    /// Returns the collation that masks tokens.
    ///
    /// # Errors
    /// Exit 2: the tokenizer has no mask token, or does not split texts into words.
    pub(super) fn collation(self, tokenizer: &Tokenizer) -> Result<Collation> {
        let MaskingOptions { probability, whole_words } = self;
        if whole_words && !tokenizer.has_words() {
            let why = "whole_word_mask: the tokenizer does not split texts into words";
            return Err(Error::input(format!("{}: {why}", tokenizer.folder().display())));
        }
        let mask = mask(tokenizer)?;
        Ok(Collation::Masked(Masking { probability, whole_words, mask, vocab_size: tokenizer.vocab_size() as u32 }))
    }

    /// The options as part of the fingerprint of the data, which existing checkpoints contain.
    pub(super) fn settings(self) -> String {
        let MaskingOptions { probability, whole_words } = self;
        format!("Hiding {{ probability: {probability:?}, whole_words: {whole_words} }}")
    }

    /// Tokenizes a text and marks its tokens; `special` are the ids of special tokens.
    pub(super) fn tokens(self, tokenizer: &Tokenizer, special: &HashSet<u32>, text: &str) -> Result<Vec<Marked>> {
        // Without whole-word masking, each token counts as a word.
        let (ids, words) = match self.whole_words {
            true => tokenizer.tokenize(text).map(|tokens| (tokens.ids, tokens.word_ids))?,
            false => (tokenizer.ids(text)?, Vec::new()),
        };
        let continues_word =
            |i: usize| i > 0 && words.get(i).is_some_and(|word| word.is_some() && *word == words[i - 1]);
        let mark = |(i, id): (usize, u32)| match special.contains(&id) {
            true => (id, NO_LABEL),
            false => (id, if continues_word(i) { WORD_PART } else { WORD_START }),
        };
        Ok(ids.into_iter().enumerate().map(mark).collect())
    }
}

fn mask(tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer.special(Special::Mask).ok_or_else(|| {
        let why = "the tokenizer has no mask token: name it as \"mask_token\" in tokenizer_config.json";
        Error::input(format!("{}: {why}", tokenizer.folder().display()))
    })
}

/// Adds special tokens to a text or a pair. Returns ids, segments and marks.
pub(super) fn add_special(t: &TokenTemplate, first: &[Marked], second: &[Marked]) -> (Vec<u32>, Vec<u8>, Vec<i32>) {
    let special =
        |tokens: &[(u32, u8)]| tokens.iter().map(|&(id, segment)| (id, segment, NO_LABEL)).collect::<Vec<_>>();
    let text = |tokens: &[Marked], segment: u8| {
        // The rest of a split word starts with a word start.
        let mark = |i: usize, mark: i32| if i == 0 && mark == WORD_PART { WORD_START } else { mark };
        let tokens = tokens.iter().enumerate().map(|(i, token)| (token.0, segment, mark(i, token.1)));
        tokens.collect::<Vec<_>>()
    };
    let [a, b] = t.segments;
    let all = [special(&t.before), text(first, a), special(&t.between), text(second, b), special(&t.after)];
    let (mut ids, mut segments, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for (id, segment, mark) in all.concat() {
        ids.push(id);
        segments.push(segment);
        marks.push(mark);
    }
    (ids, segments, marks)
}

/// Documents for masked language modeling with dynamic masking (new masks in each step).
#[derive(Debug, Clone)]
pub struct MaskedTexts {
    pub corpus: Corpus,
    pub masking: MaskingOptions,
}

impl Encode for MaskedTexts {
    fn files(&self) -> &Files {
        self.corpus.source.files()
    }

    fn settings(&self) -> String {
        format!("masked {} {}", self.masking.settings(), self.corpus.settings())
    }

    /// # Errors
    /// Those of [`documents::read`]; a tokenizer without a mask token, or without words if `whole_words` (exit 2).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let (template, special) = (tokenizer.token_template(false)?, tokenizer.special_ids());
        let collation = self.masking.collation(tokenizer)?;
        let tokens = |document: &Document| self.masking.tokens(tokenizer, &special, &document.text);
        let example = |pieces: &[&[Marked]]| {
            let mut example = Example { ids: vec![], type_ids: vec![], lengths: vec![], label: Label::None };
            let mut all_marks = Vec::new();
            for piece in pieces {
                let (ids, segments, marks) = add_special(&template, piece, &[]);
                example.lengths.push(ids.len() as u32);
                example.ids.extend(ids);
                example.type_ids.extend(segments);
                all_marks.extend(marks);
            }
            Example { label: Label::Tokens(all_marks), ..example }
        };
        let format = DocumentFormat { collation, special_tokens: template.len(), minimum: (1, "without a token") };
        self.corpus.encode(format, tokens, example)
    }
}

/// Texts whose mask tokens are predicted, one text per example.
#[derive(Debug, Clone)]
pub struct FillMask {
    pub source: DocumentSource,
    pub max_length: usize,
}

impl Encode for FillMask {
    fn files(&self) -> &Files {
        self.source.files()
    }

    fn settings(&self) -> String {
        format!("gaps {:?}", (self.max_length, self.source.settings()))
    }

    /// # Errors
    /// Those of [`documents::read`]; a text without a mask token after truncation (exit 2).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let read = documents::read(&self.source)?;
        let mask = mask(tokenizer)?;
        let inputs: Vec<_> = read.records.iter().map(|document| (document.text.as_str(), None)).collect();
        let encoded = tokenizer.encode_batch(&inputs, self.max_length)?;
        let none = || format!("no mask token ({}) within max_length = {}", tokenizer.token(mask), self.max_length);
        let without = encoded.iter().zip(&read.records).filter(|(encoded, _)| !encoded.ids.contains(&mask));
        let bad: Vec<(usize, String)> = without.map(|(_, document)| (document.line, none())).collect();
        records::check_bad(self.source.files(), records::OnBad::Error, false, encoded.len() - bad.len(), &bad)?;
        let masking = MaskingOptions { probability: 0.0, whole_words: false };
        Ok(Encoded {
            truncated: encoded.iter().filter(|encoded| encoded.truncated).count(),
            examples: encoded.into_iter().map(|e| Example::single(e.ids, e.type_ids, Label::None)).collect(),
            collation: masking.collation(tokenizer)?,
            hashes: read.hashes,
            labels: None,
            skipped: read.skipped,
            remarks: read.remarks,
            references: json!(tokenizer.vocabulary()),
            extras: Extras::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::text::documents::Division;
    use std::path::{Path, PathBuf};

    const NONE: i32 = NO_LABEL;

    /// Creates a folder with a BERT vocabulary of letters (`a` is 5, `##a` 6, `b` 7, ...) and a text file.
    fn folder(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let letters = ('a'..='z').map(|c| format!("{c}\n##{c}"));
        let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(letters);
        std::fs::write(dir.path().join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn read(dir: &tempfile::TempDir, encode: &dyn Encode) -> Result<Prepared> {
        prepare(encode, dir.path(), Some(&dir.path().join("cache")))
    }

    fn masked(path: &Path, max_length: usize, packing: bool, whole_words: bool) -> MaskedTexts {
        let source = DocumentSource::Text { files: path.into(), division: Division::Lines };
        MaskedTexts {
            corpus: Corpus { source, max_length, packing },
            masking: MaskingOptions { probability: 0.15, whole_words },
        }
    }

    #[test]
    fn each_piece_has_its_special_tokens() {
        let (dir, path) = folder("ab c\nd [SEP] efg\n");
        let packed = read(&dir, &masked(&path, 12, true, true)).unwrap();
        let data = &packed.dataset;
        assert_eq!((data.ids(0), data.sequences(0)), (&[2, 5, 8, 9, 3, 2, 11, 3, 13, 16, 18, 3][..], vec![5, 7]));
        let first = [NONE, WORD_START, WORD_PART, WORD_START, NONE];
        let second = [NONE, WORD_START, NONE, WORD_START, WORD_PART, WORD_PART, NONE];
        assert_eq!(data.label(0), Label::Tokens([&first[..], &second].concat()));
        assert_eq!(packed.facts.remarks, ["2 documents in 1 block"]);
        let masking = Masking { probability: 0.15, whole_words: true, mask: 4, vocab_size: 57 };
        assert_eq!(data.collation(), &Collation::Masked(masking));

        let single = read(&dir, &masked(&path, 6, false, false)).unwrap();
        let data = &single.dataset;
        assert_eq!(
            (data.ids(0), data.ids(1), single.facts.truncated),
            (&[2, 5, 8, 9, 3][..], &[2, 11, 3, 13, 16, 3][..], 1)
        );
        assert_eq!(data.label(0), Label::Tokens(vec![NONE, WORD_START, WORD_START, WORD_START, NONE]));
    }

    #[test]
    fn a_split_word_has_two_word_starts() {
        let (dir, path) = folder("abcdef\n");
        let data = read(&dir, &masked(&path, 5, true, true)).unwrap().dataset;
        let word = Label::Tokens(vec![NONE, WORD_START, WORD_PART, WORD_PART, NONE]);
        assert_eq!((data.label(0), data.label(1), data.ids(1)), (word.clone(), word, &[2, 12, 14, 16, 3][..]));
    }

    #[test]
    fn masks_of_the_text_are_targets() {
        let (dir, path) = folder("a [MASK] b [MASK]\n[MASK]\n");
        let fill_mask = |max_length| {
            let source = DocumentSource::Text { files: path.clone().into(), division: Division::Lines };
            read(&dir, &FillMask { source, max_length })
        };
        let prepared = fill_mask(512).unwrap();
        let data = &prepared.dataset;
        let targets = |i| data.inputs(i, Default::default()).targets;
        assert_eq!(
            (data.ids(0), targets(0), targets(1)),
            (&[2, 5, 4, 7, 4, 3][..], vec![(2, 4), (4, 4)], vec![(1, 4)])
        );
        assert_eq!(prepared.facts.references[7], "b");
        let message = fill_mask(3).err().unwrap().to_string();
        assert!(message.contains("a.txt:1: no mask token ([MASK]) within max_length = 3"), "{message}");
    }

    #[test]
    fn missing_tokenizer_features_are_errors() {
        let (dir, path) = folder("a b\n");
        let json = json!({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, " ": 2}, "merges": []}});
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let message = |encode: &dyn Encode| read(&dir, encode).err().unwrap().to_string();
        assert!(message(&masked(&path, 8, true, false)).contains("no mask token: name it as \"mask_token\""));
        assert!(message(&masked(&path, 8, true, true)).contains("does not split texts into words"));
        std::fs::write(dir.path().join("tokenizer_config.json"), "{\"mask_token\": \"b\"}").unwrap();
        assert_eq!(read(&dir, &masked(&path, 8, true, false)).unwrap().dataset.ids(0), [0, 2, 1]);
    }
}
