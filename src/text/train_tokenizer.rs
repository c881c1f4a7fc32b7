//! Tokenizer training, for models trained from scratch.

use super::tokenizer_kinds::{Family, Kind};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tokenizers::decoders::byte_level::ByteLevel as ByteDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::metaspace::Metaspace as SpaceDecoder;
use tokenizers::decoders::wordpiece::WordPiece as WordDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{BertNormalizer, Lowercase, NFKC, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

/// Minimum number of occurrences of a token.
const MIN_FREQUENCY: u64 = 2;

/// The settings of tokenizer training.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub kind: Kind,
    pub family: Family,
    /// Maximum number of tokens, special tokens included. `None`: all characters for [`Kind::Chars`], else
    /// [`VOCAB_SIZE`].
    pub vocab_size: Option<usize>,
    pub lowercase: bool,
    /// Special tokens in addition to the family's.
    pub more: Vec<String>,
}

/// The default vocabulary size.
pub const VOCAB_SIZE: usize = 30_000;

pub struct Trained {
    tokenizer: Tokenizer,
    /// Special tokens with their keys in `tokenizer_config.json`.
    roles: Vec<(&'static str, String)>,
    /// Whether the second text of a pair has its own segment.
    has_segments: bool,
}

impl Recipe {
    /// Returns all special tokens in order of their ids.
    fn tokens(&self) -> Result<Vec<String>> {
        let special = self.family.special();
        let mut tokens: Vec<String> = special.tokens.iter().map(|(token, _)| (*token).to_owned()).collect();
        if self.kind != Kind::Bpe && !tokens.iter().any(|token| token == special.unknown) {
            tokens.push(special.unknown.to_owned());
        }
        for token in &self.more {
            if token.is_empty() || tokens.contains(token) {
                return Err(Error::input(format!("the special token {token:?} is empty or a duplicate")));
            }
            tokens.push(token.clone());
        }
        Ok(tokens)
    }

    /// Trains a tokenizer on texts.
    ///
    /// # Errors
    /// Exit 2: a vocabulary too small for the special tokens and the characters or bytes; no text; errors of the crate.
    pub fn train(&self, texts: &[String]) -> Result<Trained> {
        let tokens = self.tokens()?;
        // As in RoBERTa's pretrained tokenizer, the mask token includes the space before it.
        let takes_blank = |token: &str| self.family == Family::Roberta && token == "<mask>";
        let added = tokens.iter().map(|token| AddedToken::from(token.clone(), true).lstrip(takes_blank(token)));
        let added: Vec<AddedToken> = added.collect();
        let least = tokens.len() + if self.kind == Kind::Bpe { ByteLevel::alphabet().len() } else { 1 };
        let size = self.vocab_size.unwrap_or(if self.kind == Kind::Chars { usize::MAX } else { VOCAB_SIZE });
        if size < least {
            return Err(Error::input(format!("a vocabulary of {size} tokens is too small, the minimum is {least}")));
        }
        if !texts.iter().any(|text| !text.trim().is_empty()) {
            return Err(Error::input("there is no text to train on"));
        }
        let mut tokenizer = match self.kind {
            Kind::Chars => self.chars(texts, &tokens, size)?,
            _ => self.empty()?,
        };
        if self.kind == Kind::Chars {
            tokenizer.add_special_tokens(&added);
        } else {
            let mut trainer = self.trainer(added, size)?;
            // Line by line, including line endings, to avoid a second copy of a text.
            let lines = texts.iter().flat_map(|text| text.split_inclusive('\n'));
            tokenizer.train(&mut trainer, lines).map_err(failed)?;
        }
        let special = self.family.special();
        if let Some([single, pair]) = special.templates {
            let ids = special.tokens.iter().filter_map(|(token, _)| Some((*token, tokenizer.token_to_id(token)?)));
            let template = TemplateProcessing::builder()
                .try_single(single)
                .and_then(|builder| builder.try_pair(pair))
                .map_err(|e| Error::other(format!("the template of {}: {e}", self.family)))?
                .special_tokens(ids.collect::<Vec<_>>())
                .build()
                .map_err(|e| Error::other(e.to_string()))?;
            tokenizer.with_post_processor(Some(template));
        }
        let own = special.tokens.iter().flat_map(|(token, keys)| keys.iter().map(|key| (*key, (*token).to_owned())));
        let mut roles: Vec<_> = own.collect();
        if !roles.iter().any(|(key, _)| *key == "unk_token") && tokens.iter().any(|token| token == special.unknown) {
            roles.push(("unk_token", special.unknown.to_owned()));
        }
        Ok(Trained { tokenizer, roles, has_segments: self.family == Family::Bert })
    }

    fn trainer(&self, special_tokens: Vec<AddedToken>, size: usize) -> Result<TrainerWrapper> {
        Ok(match self.kind {
            Kind::Bpe => BpeTrainer::builder()
                .vocab_size(size)
                .min_frequency(MIN_FREQUENCY)
                .show_progress(false)
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .special_tokens(special_tokens)
                .build()
                .into(),
            Kind::WordPiece => WordPieceTrainer::builder()
                .vocab_size(size)
                .min_frequency(MIN_FREQUENCY)
                .show_progress(false)
                .special_tokens(special_tokens)
                .build()
                .into(),
            Kind::Unigram | Kind::Chars => UnigramTrainer::builder()
                .vocab_size(size as u32)
                .show_progress(false)
                .unk_token(Some(self.family.special().unknown.to_owned()))
                .special_tokens(special_tokens)
                .build()
                .map_err(|e| Error::other(e.to_string()))?
                .into(),
        })
    }

    /// Creates an untrained tokenizer.
    fn empty(&self) -> Result<Tokenizer> {
        let unknown = self.family.special().unknown.to_owned();
        let mut tokenizer = match self.kind {
            Kind::WordPiece => Tokenizer::new(WordPiece::builder().unk_token(unknown).build().map_err(failed)?),
            Kind::Unigram => Tokenizer::new(Unigram::default()),
            Kind::Bpe | Kind::Chars => Tokenizer::new(BPE::default()),
        };
        let lowercase = || self.lowercase.then(|| NormalizerWrapper::from(Lowercase));
        match self.kind {
            Kind::Bpe => {
                tokenizer
                    .with_normalizer(lowercase())
                    .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
                    .with_decoder(Some(ByteDecoder::default()));
            }
            Kind::WordPiece => {
                tokenizer
                    .with_normalizer(Some(BertNormalizer::new(true, true, None, self.lowercase)))
                    .with_pre_tokenizer(Some(BertPreTokenizer))
                    .with_decoder(Some(WordDecoder::default()));
            }
            Kind::Unigram => {
                // SentencePiece's default normalization.
                let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(failed)?;
                let steps = [NFKC.into(), spaces.into(), Strip::new(true, true).into()];
                let normalizers = steps.into_iter().chain(lowercase()).collect();
                tokenizer
                    .with_normalizer(Some(Sequence::new(normalizers)))
                    .with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::Always, true)))
                    .with_decoder(Some(SpaceDecoder::new('▁', PrependScheme::Always, true)));
            }
            Kind::Chars => {
                tokenizer.with_normalizer(lowercase()).with_decoder(Some(Fuse::new()));
            }
        }
        Ok(tokenizer)
    }

    /// Creates a tokenizer of the characters in texts, the most frequent ones if `size` is too small for all.
    fn chars(&self, texts: &[String], tokens: &[String], size: usize) -> Result<Tokenizer> {
        let mut counts = BTreeMap::new();
        for text in texts {
            let lowered = if self.lowercase { text.to_lowercase() } else { String::new() };
            for c in if self.lowercase { &lowered } else { text }.chars() {
                *counts.entry(c).or_insert(0_u64) += 1;
            }
        }
        let mut chars: Vec<(char, u64)> = counts.into_iter().collect();
        chars.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
        chars.truncate(size - tokens.len());
        chars.sort_unstable();
        let reserved: HashSet<&str> = tokens.iter().map(String::as_str).collect();
        let chars = chars.into_iter().map(|(c, _)| c.to_string()).filter(|c| !reserved.contains(c.as_str()));
        let vocab = tokens.iter().cloned().chain(chars).zip((0..).map(Value::from));
        let vocab: Map<String, Value> = vocab.collect();
        let unknown = self.family.special().unknown;
        let model = json!({"type": "BPE", "vocab": vocab, "merges": [], "unk_token": unknown});
        let model: BPE = serde_json::from_str(&model.to_string())?;
        let mut tokenizer = self.empty()?;
        tokenizer.with_model(model);
        Ok(tokenizer)
    }
}

fn failed(e: tokenizers::Error) -> Error {
    Error::other(format!("the tokenizer cannot be trained: {e}"))
}

impl Trained {
    /// Number of rows that the embedding matrix needs.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Returns key, token and id of each special token with a role.
    pub fn roles(&self) -> Vec<(&'static str, &str, u32)> {
        let role = |(key, token): &'_ (&'static str, String)| Some((*key, self.tokenizer.token_to_id(token)?));
        let ids = self.roles.iter().map(role);
        self.roles
            .iter()
            .zip(ids)
            .filter_map(|((_, token), found)| found.map(|(key, id)| (key, token.as_str(), id)))
            .collect()
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|e| Error::other(format!("{}: {e}", path.display())))
        };
        let mut config: Map<String, Value> =
            self.roles.iter().map(|(key, token)| ((*key).to_owned(), Value::from(token.as_str()))).collect();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        if self.has_segments {
            config.insert("model_input_names".into(), json!(["input_ids", "token_type_ids", "attention_mask"]));
        }
        write("tokenizer.json", self.tokenizer.to_string(true).map_err(failed)?)?;
        write("tokenizer_config.json", serde_json::to_string_pretty(&config)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::special_tokens::Special as Role;
    use super::super::tokenizer::Tokenizer as Read;
    use super::*;

    const TEXT: &str = "To be, or not to be, that is the question:\n\
                        Whether 'tis nobler in the mind to suffer\n\
                        The slings and arrows of outrageous fortune,\n\
                        Or to take arms against a sea of troubles\n";

    fn trained(recipe: &Recipe) -> (Read, tokenizers::Tokenizer, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let trained = recipe.train(&[TEXT.to_owned(), TEXT.to_owned()]).unwrap();
        trained.save(dir.path()).unwrap();
        let read = Read::from_folder(dir.path()).unwrap();
        assert_eq!(read.vocab_size(), trained.vocab_size());
        for (key, token, id) in trained.roles() {
            assert_eq!(read.token(id), token, "{key}");
        }
        (read, tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap(), dir)
    }

    fn recipe(kind: Kind, family: Family) -> Recipe {
        let vocab_size = match kind {
            Kind::Bpe => Some(320),
            Kind::Chars => None,
            _ => Some(90),
        };
        Recipe { kind, family, vocab_size, lowercase: false, more: Vec::new() }
    }

    /// For each pair: the vocabulary has at most the requested size, and decoding restores the text.
    #[test]
    fn every_kind_works_with_every_family() {
        for &kind in Kind::ALL {
            for &family in Family::ALL {
                let recipe = recipe(kind, family);
                let (read, raw, _dir) = trained(&recipe);
                let what = format!("{kind} {family}");
                assert!(recipe.vocab_size.is_none_or(|size| read.vocab_size() <= size), "{what}");
                let text = "to be or not";
                let ids = read.ids(text).unwrap();
                assert_eq!(raw.decode(&ids, false).unwrap(), text, "{what}");
                let template = read.token_template(false).unwrap();
                let wanted = match family {
                    Family::Bert | Family::Roberta => (1, 1),
                    Family::T5 => (0, 1),
                    Family::Gpt2 => (0, 0),
                    Family::Llama => (1, 0),
                };
                assert_eq!((template.before.len(), template.after.len()), wanted, "{what}");
                let pair = read.token_template(true).unwrap();
                assert_eq!(pair.segments[1], u8::from(!matches!(family, Family::Roberta | Family::T5)), "{what}");
                let has_mask = matches!(family, Family::Bert | Family::Roberta);
                assert_eq!(read.special(Role::Mask).is_some(), has_mask, "{what}");
                assert_eq!(read.special(Role::Eos).is_some(), family != Family::Bert, "{what}");
                let unknown = raw.encode("\u{4e09}", false).unwrap();
                assert!(!unknown.get_ids().is_empty(), "{what}: unknown characters have a token");
            }
        }
    }

    #[test]
    fn special_token_ids_match_the_families() {
        let id = |family, token: &str| {
            let (_, raw, _dir) = trained(&recipe(Kind::Bpe, family));
            raw.token_to_id(token).unwrap()
        };
        assert_eq!((id(Family::Bert, "[PAD]"), id(Family::Bert, "[MASK]")), (0, 4));
        assert_eq!((id(Family::Roberta, "<s>"), id(Family::Roberta, "<pad>"), id(Family::Roberta, "</s>")), (0, 1, 2));
        assert_eq!((id(Family::T5, "<pad>"), id(Family::T5, "</s>"), id(Family::T5, "<unk>")), (0, 1, 2));
        assert_eq!((id(Family::Llama, "<s>"), id(Family::Llama, "</s>")), (1, 2));
    }

    /// As in transformers' `RobertaTokenizer`, the space does not become a token.
    #[test]
    fn robertas_mask_token_includes_the_space_before_it() {
        let (read, raw, _dir) = trained(&recipe(Kind::Bpe, Family::Roberta));
        let mask = raw.token_to_id("<mask>").unwrap();
        let before = read.ids("to").unwrap();
        assert_eq!(read.ids("to <mask>").unwrap(), [before, vec![mask]].concat());
    }

    #[test]
    fn a_character_vocabulary_has_all_or_the_most_frequent() {
        let (read, raw, _dir) = trained(&recipe(Kind::Chars, Family::Gpt2));
        let chars: HashSet<char> = TEXT.chars().collect();
        assert_eq!(read.vocab_size(), 2 + chars.len());
        let ids = read.ids(TEXT).unwrap();
        assert_eq!((ids.len(), raw.decode(&ids, false).unwrap().as_str()), (TEXT.chars().count(), TEXT));
        let few = Recipe { vocab_size: Some(4), ..recipe(Kind::Chars, Family::Gpt2) };
        let (read, ..) = trained(&few);
        assert_eq!((read.vocab_size(), read.ids(" tT").unwrap()), (4, vec![2, 3, 1]));
        let lower = Recipe { lowercase: true, ..recipe(Kind::Chars, Family::Gpt2) };
        let (read, ..) = trained(&lower);
        assert_eq!(read.ids("To").unwrap(), read.ids("tO").unwrap());
    }

    #[test]
    fn additional_special_tokens_and_lowercasing() {
        let more = vec!["<|im_start|>".to_owned()];
        let (read, ..) = trained(&Recipe { lowercase: true, more, ..recipe(Kind::Bpe, Family::Gpt2) });
        assert_eq!(read.ids("<|im_start|>").unwrap(), [1]);
        assert_eq!(read.ids("TO BE").unwrap(), read.ids("to be").unwrap());
    }

    #[test]
    fn invalid_settings_are_errors() {
        let message = |recipe: Recipe, text: &str| recipe.train(&[text.to_owned()]).err().unwrap().to_string();
        let base = || recipe(Kind::Bpe, Family::Gpt2);
        assert!(message(Recipe { vocab_size: Some(256), ..base() }, TEXT).contains("too small, the minimum is 257"));
        assert!(message(base(), " \n").contains("no text"));
        assert!(message(Recipe { more: vec!["<|endoftext|>".into()], ..base() }, TEXT).contains("a duplicate"));
        assert!("word".parse::<Kind>().unwrap_err().to_string().contains("bpe, wordpiece, unigram, chars"));
    }
}
