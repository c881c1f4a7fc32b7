//! Kinds of tokenizers that can be trained, and the special tokens of the families.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// How a text is divided into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pairs of bytes that are merged, as GPT-2 does: no text is unknown.
    Bpe,
    /// Beginnings and parts of words, as BERT does.
    WordPiece,
    /// The likeliest pieces, as T5 does.
    Unigram,
    /// Every character is a token.
    Chars,
}

/// Whose special tokens and templates it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Bert,
    Roberta,
    T5,
    Gpt2,
    Llama,
}

/// The tokens of a family: their roles, and what stands around a text and around a pair.
pub(super) struct Special {
    /// Tokens in the order of their ids, with the keys that name their roles.
    pub tokens: &'static [(&'static str, &'static [&'static str])],
    /// The token of what is unknown.
    pub unknown: &'static str,
    pub templates: Option<[&'static str; 2]>,
}

impl Family {
    pub const ALL: &[Family] = &[Family::Bert, Family::Roberta, Family::T5, Family::Gpt2, Family::Llama];

    fn name(self) -> &'static str {
        match self {
            Family::Bert => "bert",
            Family::Roberta => "roberta",
            Family::T5 => "t5",
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
        }
    }

    /// Ids and templates as the pretrained models of the family have them.
    pub(super) fn special(self) -> Special {
        match self {
            Family::Bert => Special {
                tokens: &[
                    ("[PAD]", &["pad_token"]),
                    ("[UNK]", &["unk_token"]),
                    ("[CLS]", &["cls_token"]),
                    ("[SEP]", &["sep_token"]),
                    ("[MASK]", &["mask_token"]),
                ],
                unknown: "[UNK]",
                templates: Some(["[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"]),
            },
            Family::Roberta => Special {
                tokens: &[
                    ("<s>", &["bos_token", "cls_token"]),
                    ("<pad>", &["pad_token"]),
                    ("</s>", &["eos_token", "sep_token"]),
                    ("<unk>", &["unk_token"]),
                    ("<mask>", &["mask_token"]),
                ],
                unknown: "<unk>",
                templates: Some(["<s> $A </s>", "<s> $A </s> </s> $B </s>"]),
            },
            Family::T5 => Special {
                tokens: &[("<pad>", &["pad_token"]), ("</s>", &["eos_token"]), ("<unk>", &["unk_token"])],
                unknown: "<unk>",
                templates: Some(["$A </s>", "$A </s> $B </s>"]),
            },
            Family::Gpt2 => {
                Special { tokens: &[("<|endoftext|>", &["bos_token", "eos_token"])], unknown: "<unk>", templates: None }
            }
            Family::Llama => Special {
                tokens: &[("<unk>", &["unk_token"]), ("<s>", &["bos_token"]), ("</s>", &["eos_token"])],
                unknown: "<unk>",
                templates: Some(["<s> $A", "<s> $A <s>:1 $B:1"]),
            },
        }
    }
}

impl Kind {
    pub const ALL: &[Kind] = &[Kind::Bpe, Kind::WordPiece, Kind::Unigram, Kind::Chars];

    fn name(self) -> &'static str {
        match self {
            Kind::Bpe => "bpe",
            Kind::WordPiece => "wordpiece",
            Kind::Unigram => "unigram",
            Kind::Chars => "chars",
        }
    }

    /// The family that is known for it.
    pub fn usual_family(self) -> Family {
        match self {
            Kind::Bpe | Kind::Chars => Family::Gpt2,
            Kind::WordPiece => Family::Bert,
            Kind::Unigram => Family::T5,
        }
    }
}

/// Names of an enum, to and from.
macro_rules! named {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(word: &str) -> Result<Self> {
                let all = || Self::ALL.iter().map(|item| item.name()).collect::<Vec<_>>().join(", ");
                let found = Self::ALL.iter().copied().find(|item| item.name() == word);
                found.ok_or_else(|| Error::input(format!("found {word:?}, expected one of {}", all())))
            }
        }
    };
}
named!(Kind);
named!(Family);
