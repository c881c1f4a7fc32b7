//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod reference;
pub mod runs;
