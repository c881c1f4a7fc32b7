//! From files to token ids: [`records`] reads rows of text and label, [`tagged`] sentences of words and tags,
//! [`questions`] questions on contexts, [`choices`] questions with choices, [`pairs`] texts with what they become,
//! [`documents`] texts alone; [`tokenizer`] turns text into ids, [`words`] texts in words, [`windows`] long contexts into
//! parts that overlap.
//!
//! A file whose name ends with `.gz` is unpacked, whatever it holds. Nothing here knows of tasks or tensors. A label keeps the form in which a person wrote it; what it means is
//! decided in `data::prepare`.

pub mod chat_template;
pub mod choices;
pub mod columns;
pub mod conversations;
pub mod documents;
pub mod frame;
pub mod gzip;
pub mod pairs;
pub mod parallel;
pub mod prompts;
pub mod questions;
pub mod record;
pub mod records;
pub mod special_tokens;
pub mod tagged;
pub mod tokenizer;
pub mod tokenizer_kinds;
pub mod train_tokenizer;
pub mod windows;
pub mod words;

mod conll;
mod jinja;
mod jsonl;
mod table;
mod wordpiece;

pub use record::{Fields, Format, OnBad, RawLabel, Record, Source};
pub use records::Records;
pub use tokenizer::{Encoded, Tokenizer};
