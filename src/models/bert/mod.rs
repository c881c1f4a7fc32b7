//! BERT (arXiv 1810.04805).

use crate::error::Result;
use crate::models::encoder::{Config, Design, Encoder};
use crate::models::registry::{Family, Plan, no_generation};
use crate::models::{Backbone, Role};

/// The family's entry in the registry.
pub const FAMILY: Family = Family { model_types: &["bert"], build, refusal: no_generation };

fn build(plan: Plan) -> Result<Box<dyn Backbone>> {
    let config = Config::read(&plan, &[], &[])?;
    let mut design = Design::plain("Bert", "bert.", &config, plan.role);
    if plan.role == Role::PreTraining {
        design.spelling.classifier = "cls.seq_relationship";
    }
    Ok(Box::new(Encoder::new(config, design, plan)))
}
