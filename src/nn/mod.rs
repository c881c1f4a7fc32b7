//! Layers that model families share, and their parameters in flat buffers.
//!
//! A layer holds [`ParamId`]s, not tensors: the tensor of an id is looked up in the [`ctx::Ctx`] of the pass, so that a
//! block's weights may be freed and gathered between passes. Layers take `[T, width]`, T the real tokens of a packed
//! batch; only the attention kernel knows sequences. No layer names a family.

pub mod attention;
pub mod blocks;
pub mod cache;
pub mod ctx;
pub mod embedding;
pub mod feed_forward;
pub mod input_embeddings;
pub mod layout;
pub mod linear;
pub mod lm_head;
pub mod lora;
pub mod norm;
pub mod param_builder;
pub mod params;
pub mod pooler;
pub mod pre_norm;
pub mod prediction_head;
pub mod relative_attention;
pub mod residual;
pub mod rng;
pub mod rotary;
pub mod self_attention;

pub use crate::ops::{ComputeMode, Cost};
pub use ctx::{Ctx, Pass, RowGradient};
pub use layout::Layout;
pub use param_builder::{Init, ParamBuilder, ParamId};
pub use params::Params;
