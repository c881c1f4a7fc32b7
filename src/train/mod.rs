//! Training: [`session`] loads the model and the data, [`trainer`] is the training loop, [`step`] one optimizer step,
//! [`blockwise`] its forward and backward pass, [`evaluate`] the inference that evaluation and prediction share.

pub mod advice;
pub mod begun;
pub mod blockwise;
pub mod checkpoint_files;
pub mod checkpoints;
pub mod clock;
pub mod dry_run;
pub mod estimate;
pub mod evaluate;
pub mod feed;
pub mod generate;
pub mod generation;
pub mod lora;
pub mod measure;
pub mod memory_fit;
pub mod memory_report;
pub mod model_folder;
pub mod model_loading;
pub mod non_finite;
mod opening;
pub mod optimizer_files;
pub mod optimizers;
pub mod planned_run;
pub mod profiling;
pub mod rank_consistency;
pub mod reading;
pub mod report;
pub mod resumed;
pub mod schedule;
pub mod selection;
pub mod session;
pub mod settings;
pub mod shared_folder;
pub mod sources;
pub mod step;
pub mod summary;
pub mod trained;
pub mod trained_table;
pub mod trainer;
pub mod unfreezing;
pub mod warnings;
pub mod watch;

pub use resumed::Start;
pub use session::Session;
pub use trainer::{Ended, Trainer};
