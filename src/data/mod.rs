//! From records to the plan of every step.
//!
//! ```text
//! file --text--> record --a task's Encode--> Example --prepare, cache--> Dataset (mapped from the token cache)
//!                                                                            |
//!            packed batch on the rank's device <--prefetch-- StepPlan <--sampler (seed, epoch, step)
//! ```
//!
//! [`prepare()`] reads, checks and tokenizes a file once, on all cores, and caches the result by content: a warm start
//! hashes the data file and the tokenizer and maps the cache. Every rank has the whole [`Dataset`], so every rank knows
//! all lengths and computes all ranks' parts with [`Sampler::plan`]: ranks exchange nothing, and a resumed run needs
//! one integer. [`Prefetch`] makes the batches on another thread. A batch is packed: the sequences of a micro-batch one
//! after another, without padding. In training, [`augment`] changes the words of an example by (seed, epoch, example)
//! before the plan of its step divides the examples by their lengths.
//!
//! With `data.streaming` there is no [`Dataset`] of all examples: [`stream`] reads the shards while it trains, and each
//! global batch is a small data set of its own.

pub mod augment;
pub mod batch;
mod buckets;
pub mod cache;
pub mod cache_folder;
pub mod collation;
pub mod dataset;
pub mod example;
pub mod extent;
mod extras;
pub mod masking;
pub mod mixture;
pub mod objective;
pub mod prefetch;
pub mod prepare;
pub mod ragged;
pub mod random;
pub mod sampler;
pub mod samples;
pub mod shuffle;
pub mod stream;

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
