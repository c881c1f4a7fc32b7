//! Optimizers over flat units, learning rate schedules, loss scaling.

pub mod adafactor;
pub mod adagrad;
pub mod adamw;
pub mod ema;
pub mod gradient;
pub mod held;
pub mod lion;
pub mod loss_scale;
pub mod muon;
pub mod optimizer;
pub mod pieces;
pub mod plateau;
pub mod rmsprop;
pub mod schedule;
pub mod sgd;

pub use ema::Ema;
pub use gradient::Part;
pub use loss_scale::{LossScaler, Overflow};
pub use optimizer::{Optimizer, Rule};
pub use pieces::{Piece, UnitShape};
pub use plateau::Plateau;
pub use schedule::Schedule;
