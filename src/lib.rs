//! Distributed fine-tuning of pretrained transformers: MPI starts one rank per GPU, every rank runs libtorch forward
//! and backward on its shard of the batch, the gradients are reduced block by block while backward still runs, and rank
//! 0 writes checkpoints that Hugging Face tools load. `docs/architecture.md` is the map.
//!
//! The modules stand in the order in which a tensor travels.

pub mod error;
pub mod observe;

pub mod machine;

pub mod hub;

pub mod ffi;

pub mod config;

pub mod text;

pub mod data;

pub mod ops;

pub mod nn;

pub mod models;

pub mod metrics;
pub mod tasks;

pub mod generate;

pub mod comm;

pub mod parallel;

pub mod optim;

pub mod checkpoint;

pub mod plan;

pub mod train;

pub mod serve;

pub mod doctor;

pub mod launch;

pub mod cli;
