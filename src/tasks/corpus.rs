//! Files of documents for language models: filled into blocks, or one document an example.

use super::packing::{Blocks, Piece};
use crate::data::prepare::Encoded;
use crate::data::{Collation, Example};
use crate::error::{Error, Result};
use crate::text::documents::{self, Document, DocumentSource};
use crate::text::parallel::on_all_cores;
use serde_json::Value;

/// A file of documents, and how it becomes examples of at most `max_length` tokens.
#[derive(Debug, Clone)]
pub struct Corpus {
    pub source: DocumentSource,
    pub max_length: usize,
    /// Whether an example is a block of documents, filled up, or one document, cut.
    pub packing: bool,
}

/// What a language model makes of documents.
pub(super) struct Goal<'a> {
    pub collation: Collation,
    /// Tokens that are put around each piece of a document.
    pub around: usize,
    /// Tokens that a piece needs, and what shorter documents are called.
    pub least: (usize, &'a str),
}

/// So many things, in words.
pub(super) fn many(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl Corpus {
    /// All settings that the examples follow from.
    pub(super) fn settings(&self) -> String {
        format!("{:?}", (self.max_length, self.packing, self.source.settings()))
    }

    /// The examples that `example` makes of the pieces of documents, whose tokens `tokens` gives.
    ///
    /// # Errors
    /// Those of [`documents::read`] and of `tokens`; no room for a piece; no document is long enough (exit 2).
    pub(super) fn encode<T: Send + Sync>(
        &self,
        goal: Goal,
        tokens: impl Fn(&Document) -> Result<Vec<T>> + Send + Sync,
        example: impl Fn(&[&[T]]) -> Example,
    ) -> Result<Encoded> {
        let Goal { collation, around, least: (least, what) } = goal;
        let blocks = Blocks { length: self.max_length, around, least };
        let refuse = |why: String| Err(Error::input(format!("{}: {why}", self.source.path().display())));
        if blocks.room() < least {
            return refuse(format!(
                "max_length {} leaves no room for text beside {around} special tokens; raise max_length",
                self.max_length
            ));
        }
        let read = documents::read(&self.source)?;
        let texts = on_all_cores(&read.records, tokens).into_iter().collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let short = lengths.iter().filter(|&&n| n < least).count();
        let mut remarks = Vec::new();
        if short > 0 {
            remarks.push(format!("{} {what} left out", many(short, "document")));
        }
        let mut truncated = 0;
        let pieces = if self.packing {
            let packed = blocks.pack(&lengths);
            remarks.push(format!("{} in {}", many(texts.len() - short, "document"), many(packed.len(), "block")));
            packed
        } else {
            truncated = lengths.iter().filter(|&&n| n > blocks.room()).count();
            let whole = |(document, &n): (usize, &usize)| vec![Piece { document, tokens: 0..n.min(blocks.room()) }];
            lengths.iter().enumerate().filter(|(_, n)| **n >= least).map(whole).collect()
        };
        if pieces.is_empty() {
            return refuse(format!("nothing to learn: all documents are {what}"));
        }
        let of = |piece: &Piece| &texts[piece.document][piece.tokens.clone()];
        let examples = pieces.iter().map(|block| example(&block.iter().map(of).collect::<Vec<_>>())).collect();
        Ok(Encoded {
            examples,
            collation,
            hashes: vec![read.bytes_hash],
            labels: None,
            skipped: read.skipped,
            truncated,
            remarks,
            references: Value::Null,
        })
    }
}
