//! Optimizers over flat slices, and learning-rate schedules.

pub mod adamw;
pub mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use schedule::Schedule;
pub mod loss_scale;
pub use loss_scale::LossScaler;
