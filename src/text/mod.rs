//! Reading data files and tokenizing text.
//!
//! Readers: [`records`] (text and label), [`tagged`] (words with tags), [`questions`] (extractive QA), [`choices`]
//! (multiple choice), [`pairs`] (source and target), [`documents`] (plain text), [`conversations`] and [`prompts`] (chat).
//! Tokenization: [`tokenizer`] (texts), [`words`] (pre-tokenized words, and which tokens are a word), [`windows`] (long
//! contexts split into overlapping windows). [`llama_cpp`] describes a tokenizer for GGUF files,
//! [`survey`] the columns of a file.
//!
//! Every reader reads [`files`]: one, a list, a folder or a pattern, each line numbered with its file; gzip and
//! Zstandard are decompressed in every format. [`shards`] divides files into [`pieces`], which the same readers read.
//! This module depends on neither tasks nor tensors. Labels stay as written in the file; `tasks` interprets them.

pub mod chat_template;
pub mod choices;
pub mod columns;
pub mod conversations;
pub mod detokenizer;
pub mod documents;
pub mod files;
pub mod input;
pub mod llama_cpp;
pub mod new_tokens;
pub mod one_object;
pub mod pairs;
pub mod parallel;
pub mod part;
pub mod pieces;
pub mod prompts;
pub mod questions;
pub mod record;
pub mod records;
pub mod shards;
pub mod special_tokens;
pub mod survey;
pub mod synonyms;
pub mod tagged;
pub mod token_template;
pub mod tokenizer;
pub mod tokenizer_kinds;
pub mod train_tokenizer;
pub mod windows;
pub mod words;

mod cells;
mod class_labels;
mod columnar;
mod conll;
mod forms;
mod jinja;
mod json_array;
mod jsonl;
mod message_content;
mod pretrained;
mod python_format;
mod python_methods;
mod splitter;
mod table;
mod table_objects;
mod unique_keys;

pub use record::{Fields, Format, OnBad, RawLabel, Record, Source};
pub use records::Records;
pub use tokenizer::{Encoded, Tokenizer};
