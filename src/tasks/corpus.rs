//! Encodes documents for language modeling, packed into blocks or one document per example.

use super::packing::{Blocks, Piece};
use crate::data::prepare::{Encoded, Extras};
use crate::data::{Collation, Example};
use crate::error::{Error, Result};
use crate::text::documents::{self, Document, DocumentSource};
use crate::text::parallel::on_all_cores;
use serde_json::Value;

/// Encodes a file of documents to examples of at most `max_length` tokens.
#[derive(Debug, Clone)]
pub struct Corpus {
    pub source: DocumentSource,
    pub max_length: usize,
    /// Whether documents are packed into blocks. Otherwise an example is one truncated document.
    pub packing: bool,
}

/// The requirements of a language modeling task on its examples.
pub(super) struct DocumentFormat<'a> {
    pub collation: Collation,
    /// Number of special tokens added to each piece of a document.
    pub special_tokens: usize,
    /// Minimum number of tokens of a piece, and the description of shorter documents in messages.
    pub minimum: (usize, &'a str),
}

/// Formats a count with a singular or plural noun.
pub(super) fn many(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl Corpus {
    /// All settings that determine the examples (part of the cache key).
    pub(super) fn settings(&self) -> String {
        let packing = if self.packing { "best-fit" } else { "false" };
        format!("{:?}", (self.max_length, format_args!("{packing}"), self.source.settings()))
    }

    /// Tokenizes the documents with `tokens` and builds the examples with `example` from their pieces.
    ///
    /// # Errors
    /// Those of [`documents::read`] and of `tokens`; no room for a piece; no document is long enough (exit 2).
    pub(super) fn encode<T: Send + Sync>(
        &self,
        format: DocumentFormat,
        tokens: impl Fn(&Document) -> Result<Vec<T>> + Send + Sync,
        example: impl Fn(&[&[T]]) -> Example,
    ) -> Result<Encoded> {
        let DocumentFormat { collation, special_tokens, minimum: (minimum, what) } = format;
        let blocks = Blocks { length: self.max_length, special_tokens, minimum };
        let refuse = |why: String| Err(Error::input(format!("{}: {why}", self.source.files())));
        if blocks.room() < minimum {
            return refuse(format!(
                "max_length = {} leaves no room for text besides {special_tokens} special tokens; raise max_length",
                self.max_length
            ));
        }
        let read = documents::read(&self.source)?;
        let texts = on_all_cores(&read.records, tokens).into_iter().collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let short = lengths.iter().filter(|&&n| n < minimum).count();
        let mut remarks = read.remarks;
        if short > 0 {
            remarks.push(format!("{} {what} skipped", many(short, "document")));
        }
        let mut truncated = 0;
        let pieces = if self.packing {
            let packed = blocks.pack(&lengths);
            remarks.push(format!("{} in {}", many(texts.len() - short, "document"), many(packed.len(), "block")));
            let long = lengths.iter().filter(|&&n| n > blocks.room()).count();
            if long > 0 {
                remarks.push(format!("{} longer than a block divided", many(long, "document")));
            }
            packed
        } else {
            truncated = lengths.iter().filter(|&&n| n > blocks.room()).count();
            let whole = |(document, &n): (usize, &usize)| vec![Piece { document, tokens: 0..n.min(blocks.room()) }];
            lengths.iter().enumerate().filter(|(_, n)| **n >= minimum).map(whole).collect()
        };
        if pieces.is_empty() && !self.source.files().are_pieces() {
            return refuse(format!("no training examples: all documents are {what}"));
        }
        let of = |piece: &Piece| &texts[piece.document][piece.tokens.clone()];
        let examples = pieces.iter().map(|block| example(&block.iter().map(of).collect::<Vec<_>>())).collect();
        Ok(Encoded {
            examples,
            collation,
            hashes: read.hashes,
            labels: None,
            skipped: read.skipped,
            truncated,
            remarks,
            references: Value::Null,
            extras: Extras::default(),
        })
    }
}
