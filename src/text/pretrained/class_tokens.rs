//! The special tokens of each tokenizer class, where the files name none.

use super::class::Class;
use super::settings::{Settings, Token};
use crate::text::special_tokens::Special::{self, Bos, Cls, Eos, Mask, Pad, Sep, Unk};
use tokenizers::AddedToken;

impl Class {
    /// Returns the tokens that have a role unless the files say otherwise.
    pub fn defaults(self) -> Vec<(Special, AddedToken)> {
        let list: &[(Special, &str)] = match self {
            Class::Backend => &[],
            Class::Bert => &[(Unk, "[UNK]"), (Sep, "[SEP]"), (Pad, "[PAD]"), (Cls, "[CLS]"), (Mask, "[MASK]")],
            Class::Roberta | Class::XlmRoberta | Class::Camembert => &[
                (Bos, "<s>"),
                (Eos, "</s>"),
                (Unk, "<unk>"),
                (Sep, "</s>"),
                (Pad, "<pad>"),
                (Cls, "<s>"),
                (Mask, "<mask>"),
            ],
            Class::Albert => &[
                (Bos, "[CLS]"),
                (Eos, "[SEP]"),
                (Unk, "<unk>"),
                (Sep, "[SEP]"),
                (Pad, "<pad>"),
                (Cls, "[CLS]"),
                (Mask, "[MASK]"),
            ],
            Class::DebertaV2 => &[
                (Bos, "[CLS]"),
                (Eos, "[SEP]"),
                (Unk, "[UNK]"),
                (Sep, "[SEP]"),
                (Pad, "[PAD]"),
                (Cls, "[CLS]"),
                (Mask, "[MASK]"),
            ],
            Class::XlNet => &[
                (Bos, "<s>"),
                (Eos, "</s>"),
                (Unk, "<unk>"),
                (Sep, "<sep>"),
                (Pad, "<pad>"),
                (Cls, "<cls>"),
                (Mask, "<mask>"),
            ],
            Class::T5 => &[(Eos, "</s>"), (Unk, "<unk>"), (Pad, "<pad>")],
            Class::Gpt2 => &[(Bos, "<|endoftext|>"), (Eos, "<|endoftext|>"), (Unk, "<|endoftext|>")],
            Class::GptNeoX => {
                &[(Bos, "<|endoftext|>"), (Eos, "<|endoftext|>"), (Unk, "<|endoftext|>"), (Pad, "<|padding|>")]
            }
            Class::Qwen2 => &[(Eos, "<|endoftext|>"), (Unk, "<|endoftext|>"), (Pad, "<|endoftext|>")],
            Class::Llama => &[(Bos, "<s>"), (Eos, "</s>"), (Unk, "<unk>")],
        };
        list.iter().map(|(role, token)| (*role, AddedToken::from(*token, true))).collect()
    }

    /// Returns `additional_special_tokens` of the class, if the files have none.
    pub fn additional(self, settings: &Settings) -> Option<Vec<Token>> {
        let plain = |tokens: &[&str]| tokens.iter().map(|token| Token::Plain((*token).to_owned())).collect();
        let given = settings.additional.clone();
        match self {
            Class::Camembert => given.or_else(|| Some(plain(&["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]))),
            Class::XlNet => given.or_else(|| Some(plain(&["<eop>", "<eod>"]))),
            Class::T5 => {
                let mut tokens = given.unwrap_or_default();
                if !tokens.iter().any(|token| token.text().contains("<extra_id_")) {
                    let extra = 0..settings.number("extra_ids").unwrap_or(100);
                    tokens.extend(extra.map(|i| Token::Plain(format!("<extra_id_{i}>"))));
                }
                Some(tokens)
            }
            _ => given,
        }
    }
}
