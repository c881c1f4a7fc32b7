//! BERT (arXiv 1810.04805).

mod config;
mod hf_names;
mod model;

use crate::models::registry::{Family, no_generation};
pub use config::Config;
pub use model::Bert;

/// The family's entry in the registry.
pub const FAMILY: Family = Family {
    model_types: &["bert"],
    build: |plan| Ok(Box::new(Bert::new(Config::read(&plan.json, plan.dropout)?, plan))),
    refusal: no_generation,
};
