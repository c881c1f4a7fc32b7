//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod cases;
pub mod counting;
pub mod device;
pub mod fakes;
pub mod mistakes;
pub mod models;
pub mod page;
pub mod process;
pub mod reference;
pub mod runs;
pub mod scenarios;
pub mod slurm;
pub mod tagging;
