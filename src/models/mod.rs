//! Backbones: what turns a ragged batch into hidden states, stage by stage.
//!
//! A family is a folder: `config` (its `config.json`), `model` (its stages), `hf_names` (its tensors in Hugging Face
//! files). [`encoder`] is what families share whose layers are BERT's, [`decoder`] what those share in which a token
//! sees those before it alone. [`registry`] finds the family of a folder and says which [`Role`]s it can have. Heads that
//! are the same for all families are not here: see [`crate::tasks`].

pub mod albert;
pub mod bert;
pub mod check;
pub mod decoder;
pub mod distilbert;
pub mod encoder;
pub mod family;
pub mod gpt2;
pub mod hf_names;
pub mod llama;
pub mod registry;
pub mod roberta;
pub mod role;
pub mod t5;
pub mod xlnet;

use crate::data::batch::Batch;
use crate::data::extent::Extents;
use crate::nn::Ctx;
use crate::nn::cost::{Cost, How};
use crate::nn::linear::HeadInput;
use hf_names::HfNames;
pub use role::Role;
use serde_json::Value;
use tch::Tensor;

/// The ordered tensors that pass from one stage to the next.
pub type Border = Vec<Tensor>;

/// What a head calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// [`Backbone::summary`]
    Summary,
    /// [`Backbone::features`]
    Features,
    /// [`Backbone::vocabulary`]
    Vocabulary,
}

/// A pretrained model in a role: stages `0..stages()`, then the head's stage, in which a task calls one of
/// [`Backbone::summary`], [`Backbone::features`] and [`Backbone::vocabulary`].
pub trait Backbone: Send + Sync {
    /// The number of stages before the head: the embeddings and the layers.
    fn stages(&self) -> usize;

    /// The first stage that runs for each token when text is generated: past an encoder's stages.
    fn decoder_stage(&self) -> usize {
        0
    }

    /// A stage's name in messages.
    fn stage_name(&self, stage: usize) -> String {
        if stage == 0 { "embeddings".into() } else { format!("layer {}", stage - 1) }
    }

    /// Runs one stage. Stage 0 gets an empty border; the last one returns first the hidden states of the tokens that
    /// heads see: `[T, hidden]`, or the decoder's `[D, hidden]` of an encoder-decoder.
    fn forward(&self, stage: usize, input: &Border, batch: &Batch, ctx: &mut Ctx) -> Border;

    /// One vector a sequence, `[S, width]`, as the family summarises a text for classification, with the family's
    /// dropout before a classifier. Runs in the head's stage.
    ///
    /// # Panics
    /// In a role without one.
    fn summary(&self, hidden: &Border, batch: &Batch, ctx: &mut Ctx) -> Tensor;

    /// One vector a token, `[T, width]`, with the family's dropout before a head on tokens.
    fn features(&self, hidden: &Border, ctx: &mut Ctx) -> Tensor;

    /// The scores of all token ids for chosen rows of the hidden states: `[n, hidden]` to `[n, vocab_size]`.
    ///
    /// # Panics
    /// In a role without a language model's head.
    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Tensor;

    /// What a task's own linear layer builds on: a summary's or a feature's width, and how the layer starts.
    fn head_input(&self) -> HeadInput;

    /// The longest sequence it can take, in tokens; `None` where nothing in it sets a limit.
    fn max_length(&self) -> Option<usize>;

    /// The number of token ids it knows: every id must be below.
    fn vocab_size(&self) -> usize;

    /// The number of segments (texts of a pair) it tells apart; `usize::MAX` of a family that does not look at them.
    fn segments(&self) -> usize;

    /// What one of the stages before the head costs, without its [`Backbone::border`].
    fn cost(&self, stage: usize, x: &Extents, how: &How) -> Cost;

    /// What a task's head has to have made of the last border, in the head's stage.
    fn head_cost(&self, reads: Reads, x: &Extents, how: &How) -> Cost;

    /// The numbers of the tensors that a stage adds to the border: it keeps them, and backward their gradients.
    fn border(&self, _: usize, x: &Extents) -> f64 {
        x.own.tokens * self.head_input().width as f64
    }

    /// Which native parameter is which tensor of a Hugging Face file, the head's included. A task's own linear layer is
    /// `classifier.weight` and `classifier.bias`.
    fn hf_names(&self) -> HfNames;

    /// The `architectures` entry of `config.json` in this role.
    fn architecture(&self) -> String;

    /// The folder's `config.json` as it was read.
    fn config_json(&self) -> &Value;
}
