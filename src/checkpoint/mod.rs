//! Checkpoints: Hugging Face folders with the state to resume a run.
//!
//! `docs/checkpoint-format.md` describes the format, `docs/model-folders.md` what is read. [`import`] reads model folders:
//! [`weight_sets`] finds their files, [`weight_files`] the tensors in them. [`export`] writes folders, [`adapter`] is the
//! configuration of an adapter folder. [`state`] is `trainer_state.json`, [`optimizer`] the optimizer state by parameter
//! name. [`tensors`] reads weight files, also of other [`formats`], [`tensor_writer`] writes safetensors; [`ranges`] reads
//! parts of tensors, [`sharded`] is about several files with an index. [`file_queue`] writes files at once or on a
//! thread, [`gguf`] writes models for llama.cpp, [`new_file`] and [`folder`] write files and folders atomically, [`run_dir`] manages the checkpoints of a run.

pub mod adapter;
pub mod export;
pub mod file_queue;
pub mod folder;
pub mod formats;
pub mod gguf;
pub mod import;
pub mod new_file;
pub mod optimizer;
pub mod ranges;
pub mod run_dir;
pub mod sharded;
pub mod state;
pub mod tensor_writer;
pub mod tensors;
pub mod weight_files;
pub mod weight_sets;

pub use run_dir::RunDir;
pub use state::{LossScale, TrainerState};
