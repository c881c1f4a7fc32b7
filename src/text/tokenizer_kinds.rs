//! The tokenizer types that can be trained, and the special tokens of each model family.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The tokenization algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Byte-level byte-pair encoding, as in GPT-2; there are no unknown tokens.
    Bpe,
    /// WordPiece, as in BERT.
    WordPiece,
    /// Unigram language model, as in T5.
    Unigram,
    /// One token per character.
    Chars,
}

/// The model family that defines the special tokens and templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Bert,
    Roberta,
    T5,
    Gpt2,
    Llama,
}

/// The special tokens of a family.
pub(super) struct Special {
    /// Tokens in order of their ids, with their keys in `tokenizer_config.json`.
    pub tokens: &'static [(&'static str, &'static [&'static str])],
    pub unknown: &'static str,
    /// The templates of a single text and of a pair.
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

    /// Returns ids and templates equal to those of the family's pretrained models.
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

    /// Returns the default family of this tokenizer type.
    pub fn usual_family(self) -> Family {
        match self {
            Kind::Bpe | Kind::Chars => Family::Gpt2,
            Kind::WordPiece => Family::Bert,
            Kind::Unigram => Family::T5,
        }
    }
}

/// Implements conversion to and from names.
macro_rules! named {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                let all = || Self::ALL.iter().map(|item| item.name()).collect::<Vec<_>>().join(", ");
                let found = Self::ALL.iter().copied().find(|item| item.name() == name);
                found.ok_or_else(|| Error::input(format!("found {name:?}, expected one of {}", all())))
            }
        }
    };
}
named!(Kind);
named!(Family);
