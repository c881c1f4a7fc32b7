//! BERT (arXiv 1810.04805).

mod config;
mod hf_names;
mod model;

pub use config::Config;
pub use model::Bert;
