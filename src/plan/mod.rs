//! What a run would need before there is one: memory, disk and time, from shapes and lengths alone.
//!
//! [`memory`] is the model of a rank's bytes that `zero_stage = "auto"` decides by too, [`load`] what the data asks of a
//! rank. [`timeline`] puts a step together from what a [`device`] computes and a [`link`] carries, [`scaling`] from one
//! rank to many. [`lengths`] and [`storage`] are about data and disk.

pub mod chart;
pub mod device;
pub mod fit;
pub mod lengths;
pub mod link;
pub mod load;
pub mod memory;
pub mod scaling;
pub mod storage;
pub mod timeline;
