//! Optimizers over flat slices, learning-rate schedules, loss scaling.

pub mod adamw;
pub mod loss_scale;
pub mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use loss_scale::{LossScaler, Overflow};
pub use schedule::Schedule;
