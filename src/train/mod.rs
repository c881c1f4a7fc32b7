//! Training: [`session`] puts model, data and ranks together, [`trainer`] is the loop, [`step`] one optimizer step,
//! [`staged`] its forward and backward pass, [`evaluate`] what evaluation, the command line and predictions share.

pub mod advice;
pub mod checkpoints;
pub mod clock;
pub mod evaluate;
pub mod feed;
pub mod generate;
pub mod generation;
pub mod loaded;
pub mod measure;
pub mod memory_need;
pub mod memory_report;
pub mod non_finite;
mod opening;
pub mod outlook;
pub mod reading;
pub mod rehearsal;
pub mod report;
pub mod resumed;
pub mod same_everywhere;
pub mod session;
pub mod settings;
pub mod sources;
pub mod staged;
pub mod step;
pub mod trainer;
pub mod trial;
pub mod warnings;
pub mod watch;

pub use resumed::Start;
pub use session::Session;
pub use trainer::{Ended, Trainer};
