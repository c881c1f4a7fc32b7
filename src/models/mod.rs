//! Backbones: what turns a ragged batch into hidden states, stage by stage.
//!
//! A family is a folder: `config` (its `config.json`), `model` (its stages), `hf_names` (its tensors in Hugging Face
//! files). [`registry`] finds the family of a folder. Heads are not here: see [`crate::tasks`].

pub mod bert;
pub mod hf_names;
pub mod registry;

use crate::data::batch::Batch;
use crate::nn::Ctx;
use hf_names::HfNames;
use serde_json::Value;
use tch::Tensor;

/// The ordered tensors that pass from one stage to the next.
pub type Border = Vec<Tensor>;

/// A pretrained model without its head: stages `0..stages()`, then the head's stage, which calls [`Backbone::summary`].
pub trait Backbone: Send + Sync {
    /// The number of stages before the head: the embeddings and the layers.
    fn stages(&self) -> usize;

    /// Runs one stage. Stage 0 gets an empty border; the last one returns the hidden states `[T, hidden]` first.
    fn forward(&self, stage: usize, input: &Border, batch: &Batch, ctx: &mut Ctx) -> Border;

    /// One vector a sequence, `[B, hidden]`, as the family summarises a text for classification; with the family's
    /// dropout before a classifier. Runs in the head's stage.
    fn summary(&self, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor;

    /// The width of a summary and the standard deviation of fresh head weights.
    fn head_input(&self) -> HeadInput;

    /// The longest sequence it can take, in tokens.
    fn max_length(&self) -> usize;

    /// The number of token ids it knows: every id must be below.
    fn vocab_size(&self) -> usize;

    /// The number of segments (texts of a pair) it tells apart.
    fn segments(&self) -> usize;

    /// Elements that a stage keeps from forward to backward in training, for `tokens` tokens in sequences of at most
    /// `longest`: an estimate, to tell what fits.
    fn activations(&self, stage: usize, tokens: u64, longest: u64) -> u64;

    /// Which native parameter is which tensor of a Hugging Face file.
    fn hf_names(&self) -> HfNames;

    /// The `architectures` entry of `config.json` for a task, by Hugging Face's name for it.
    fn architecture(&self, task: &str) -> String;

    /// The folder's `config.json` as it was read.
    fn config_json(&self) -> &Value;
}

/// What a head builds on.
#[derive(Debug, Clone, Copy)]
pub struct HeadInput {
    pub width: i64,
    pub std: f64,
}
