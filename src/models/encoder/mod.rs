//! What families share whose layers are those of BERT: embeddings summed and normed, post-norm blocks that see both
//! sides, a pooler, the head of a masked language model. A family says in a [`Design`] what is its own.

mod config;
mod design;
mod model;
mod spelling;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use design::{Design, Segments};
pub use model::Encoder;
pub use spelling::{LmSpelling, Spelling};
