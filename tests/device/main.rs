//! What must hold on every device, run on the one that `TRAINER_TEST_DEVICE` names: `cpu`, the default, or `cuda`
//! (with `--test-threads 1`: on a GPU dropout seeds libtorch's generator, which all threads share).
//!
//! `tests/gpu/check.sh` runs this binary from a bundle too: it needs `tests/reference` and nothing else of the source
//! tree. `TRAINER_TEST_REFERENCE` says where that is.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod borrowed;
mod checkpointing;
mod decoders;
mod distillation;
mod families;
mod generation;
mod half_model;
mod int8;
mod layers;
mod objective;
mod parity;
mod serving;
