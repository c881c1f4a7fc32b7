//! Backbones: from a packed batch to hidden states, block by block.
//!
//! A family is a folder: `config` (its `config.json`), `model` (its blocks), `hf_names` (its tensors in Hugging Face
//! files). Families with BERT's layers share [`encoder`]; decoder-only families share [`decoder`]; encoder-decoders
//! share [`encoder_decoder`]. [`registry`] finds the family of a folder; [`family`] has the types that families and
//! registry share. Heads that are the same for all families are in [`crate::tasks`]. [`llama_cpp`] is how a family
//! describes itself for a GGUF file.

pub mod albert;
pub mod bart;
pub mod bert;
pub mod check;
pub mod deberta_v2;
pub mod decoder;
pub mod distilbert;
pub mod electra;
pub mod encoder;
pub mod encoder_decoder;
pub mod family;
pub mod gpt2;
pub mod hf_names;
pub mod layers;
pub mod llama;
pub mod llama_cpp;
pub mod longformer;
pub mod modernbert;
pub mod registry;
pub mod roberta;
pub mod role;
pub mod rope;
pub mod t5;
pub mod xlnet;

use crate::data::batch::Batch;
use crate::data::extent::Extents;
use crate::nn::Ctx;
use crate::nn::linear::HeadInput;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use hf_names::HfNames;
pub use role::Role;
use serde_json::Value;
use tch::Tensor;

/// Boundary activations: the ordered tensors that pass from one block to the next.
pub type Boundary = Vec<Tensor>;

/// The backbone function that a task's head uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// [`Backbone::summary`]
    Summary,
    /// [`Backbone::features`]
    Features,
    /// [`Backbone::vocabulary`]
    Vocabulary,
}

/// A pretrained model for a task head: blocks `0..blocks()`, then the head's block, in which a task calls one of
/// [`Backbone::summary`], [`Backbone::features`] and [`Backbone::vocabulary`].
pub trait Backbone: Send + Sync {
    /// Number of blocks before the head: the embeddings and the layers.
    fn blocks(&self) -> usize;

    /// The first block that runs for each new token in generation: the first after an encoder.
    fn decoder_block(&self) -> usize {
        0
    }

    /// A block's name in messages.
    fn block_name(&self, block: usize) -> String {
        if block == 0 { "embeddings".into() } else { format!("layer {}", block - 1) }
    }

    /// Runs one block. The input of block 0 is empty; the first output of the last block is the hidden states for the
    /// head: `[T, hidden]`, or the decoder's `[D, hidden]` of an encoder-decoder. For a task head that only calls
    /// [`Backbone::summary`], the last block may leave out what that does not read: `[S, hidden]`.
    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary;

    /// Returns one vector per sequence, `[S, width]`: the family's pooled output for classification, with its dropout
    /// before a classifier. Runs in the head's block.
    ///
    /// # Panics
    /// For a task head without one.
    fn summary(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor;

    /// Returns one vector per token, `[T, width]`, with the family's dropout before a token head.
    fn features(&self, hidden: &Boundary, ctx: &mut Ctx) -> Tensor;

    /// Returns the projection of selected rows of the hidden states to the vocabulary: `[n, hidden]` to `[n, vocab_size]`.
    ///
    /// # Panics
    /// For a task head without a language-model head.
    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Projection;

    /// The input of a task's linear layer: the width of a summary or a feature, and the layer's initialization.
    fn head_input(&self) -> HeadInput;

    /// Maximum length of a sequence, in tokens; `None` without a limit.
    fn max_length(&self) -> Option<usize>;

    /// Size of the vocabulary: every token id must be below it.
    fn vocab_size(&self) -> usize;

    /// Number of segments (texts of a pair) that it distinguishes; `usize::MAX` if it ignores segments.
    fn segments(&self) -> usize;

    /// Returns the cost of a block before the head, without its [`Backbone::boundary`].
    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost;

    /// Returns the cost of the backbone's part of the head's block.
    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost;

    /// Number of elements that a block adds to the boundary activations, which are kept, as are their gradients in
    /// backward.
    fn boundary(&self, _: usize, x: &Extents) -> f64 {
        x.own.tokens * self.head_input().width as f64
    }

    /// The mapping of native parameters to tensors of a Hugging Face file, the head's included. A task's linear layer
    /// is `classifier.weight` and `classifier.bias`.
    fn hf_names(&self) -> HfNames;

    /// The `architectures` entry of `config.json` for this task head.
    fn architecture(&self) -> String;

    /// The folder's original `config.json`.
    fn config_json(&self) -> &Value;
}
