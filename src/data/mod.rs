//! From records to the plan of every step.
//!
//! ```text
//! file --text--> record --a task's Encode--> Example --prepare, cache--> Dataset (mapped from the token cache)
//!                                                                            |
//!            ragged batch on the rank's device <--prefetch-- StepPlan <--sampler (seed, epoch, step)
//! ```
//!
//! [`prepare()`] reads, checks and tokenises a file once, on all cores, and keeps the result by content: a warm
//! start hashes the data file and the tokenizer and maps the cache. Every rank holds the whole [`Dataset`], so
//! every rank knows all lengths and computes all ranks' shards with [`Sampler::plan`] alone: nothing is sent
//! between ranks, and a resumed run needs one integer. [`Prefetch`] makes the batches off the training thread.
//! A batch is ragged: the sequences of a micro-batch one after another, never padded.

pub mod batch;
pub mod cache;
pub mod collation;
pub mod dataset;
pub mod example;
pub mod extent;
pub mod masking;
pub mod prefetch;
pub mod prepare;
pub mod ragged;
pub mod random;
pub mod sampler;

mod column;

pub use cache::{CacheUse, Facts};
pub use collation::Collation;
pub use dataset::{Dataset, LabelKind};
pub use example::{Example, Label};
pub use extent::{Extent, Extents};
pub use prefetch::Prefetch;
pub use prepare::{Encode, Encoded, Prepared, prepare};
pub use random::RandomKey;
pub use sampler::{MicroBatch, Sampler, StepPlan, eval_plan};
