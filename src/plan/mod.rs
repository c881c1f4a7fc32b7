//! What a run would need before there is one: memory, disk and time, from shapes and lengths alone.
//!
//! [`memory`] is the model of a rank's bytes that `zero_stage = "auto"` decides by too; [`load`] is what the data asks of
//! a rank.

pub mod load;
pub mod memory;
