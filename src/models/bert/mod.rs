//! BERT (arXiv 1810.04805).

use crate::error::Result;
use crate::models::Role;
use crate::models::encoder::{Config, Design, Encoder};
use crate::models::family::{Family, Plan, no_generation};

pub const FAMILY: Family = Family {
    model_types: &["bert"],
    build: |plan| Ok(Box::new(Encoder::new(design(&plan)?, plan))),
    refusal: no_generation,
    llama_cpp: None,
};

pub(super) fn design(plan: &Plan) -> Result<(Config, Design)> {
    let config = Config::read(plan, &[], &[])?;
    let mut design = Design::plain("Bert", "bert.", &config, plan.role);
    if plan.role == Role::PreTraining {
        design.param_names.classifier = "cls.seq_relationship";
    }
    Ok((config, design))
}
