//! Checkpoints: Hugging Face folders with the state that resumes a run.
//!
//! `docs/checkpoint-format.md` is the format. [`import`] reads model folders, [`export`] writes them, [`state`] is
//! `trainer_state.json`, [`optimizer`] the moments by parameter name, [`tensors`] and [`tensor_writer`] safetensors
//! files, [`folder`] the protocol that never leaves half a checkpoint, [`run_dir`] what a run keeps and finds again.

pub mod export;
pub mod folder;
pub mod import;
pub mod optimizer;
pub mod run_dir;
pub mod state;
pub mod tensor_writer;
pub mod tensors;

pub use run_dir::RunDir;
pub use state::{LossScale, TrainerState};
