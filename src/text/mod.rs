//! From files to token ids: [`records`] reads rows of text and label, [`tokenizer`] turns text into ids.
//!
//! Nothing here knows of tasks or tensors. A label keeps the form in which a person wrote it; what it means is
//! decided in `data::prepare`.

pub mod records;
pub mod tokenizer;

mod jsonl;
mod table;
mod wordpiece;

pub use records::{Fields, Format, OnBad, RawLabel, Record, Records, Source};
pub use tokenizer::{Encoded, Tokenizer};
