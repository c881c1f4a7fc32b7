//! Pieces of files in memory: what a stream of shards passes to the readers of files.

use super::class_labels::ClassLabels;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The number of a row of a columnar file, from 1, and its columns or what is wrong with it.
pub type Object = (usize, Result<Map<String, Value>, String>);

/// Some of the records of a file, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Number of lines of the file before the piece.
    pub line: usize,
    pub content: Content,
    pub form: Form,
}

/// What a piece contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Decompressed text.
    Bytes(Vec<u8>),
    /// Rows of a columnar file, with the numbers of classes.
    Objects(Vec<Object>),
}

/// What the reader of a whole file finds at its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    Lines,
    /// Elements of a JSON array, in brackets.
    Array,
    Table {
        separator: u8,
        /// The first row of the file, if the piece begins after it.
        first: Option<Vec<u8>>,
    },
    /// Rows of a columnar file, with the classes that the file names.
    Rows(Arc<ClassLabels>),
}
