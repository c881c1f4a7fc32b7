//! Estimates memory, disk space and time of a run from shapes and lengths, before training.
//!
//! [`memory`] models per-rank memory, also for `zero_stage = "auto"`, under the [`load`] of the data. [`timeline`]
//! models the time of a step from the speed of a [`device`] and of a [`link`], [`scaling`] for different numbers of
//! ranks. [`lengths`] and [`storage`] cover data and disk space.

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
