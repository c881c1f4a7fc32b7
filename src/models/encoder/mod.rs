//! Encoders with BERT's layers: summed and normalized embeddings, bidirectional post-norm blocks, a pooler, and a
//! masked-language-model head. A family defines its differences in a [`Design`].

mod config;
mod design;
mod model;
mod param_names;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use design::{Design, Segments};
pub use model::{Attention, Declare, Encoder};
pub use param_names::{LmHeadNames, ParamNames};
