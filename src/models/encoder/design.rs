//! The differences between encoder families.

use super::{Config, ParamNames};
use crate::models::Role;
use crate::nn::convolution::ConvolutionConfig;
use crate::ops::gated::activation::Activation;

/// The properties of a family's encoder for a task head.
#[derive(Debug)]
pub struct Design {
    /// Prefix of its class names: `Bert`.
    pub class: &'static str,
    pub param_names: ParamNames,
    /// Width of the embeddings, if a linear layer projects them to the layers' width.
    pub embedding: Option<i64>,
    /// Whether it projects them before their norm, without a bias.
    pub projects_first: bool,
    /// The position embedding of a text's first token; `None` without position embeddings.
    pub first_position: Option<i64>,
    pub segments: Segments,
    /// The block that each layer runs; layers with the same number share a block.
    pub layers: Vec<usize>,
    /// The factor of attention's scores.
    pub scale: f64,
    /// A convolution of the first layer's input that is added to its output.
    pub convolution: Option<ConvolutionConfig>,
    /// Dropout on the output of attention.
    pub attended_dropout: f64,
    /// Dropout on the output of the feed-forward layer.
    pub mlp_dropout: f64,
    pub pooler_activation: Activation,
    /// Dropout before the pooler, if the family has it for this task head.
    pub pooler_dropout: Option<f64>,
    /// Activation of the language-model head.
    pub lm_activation: Activation,
    /// Dropout before a task's layer, if the family has it for this task head.
    pub head_dropout: Option<f64>,
}

/// Segment embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// One embedding per segment.
    Each,
    /// Segment embeddings exist, but all tokens use the first.
    First,
    None,
}

impl Design {
    /// Returns BERT's design. `prefix` is the prefix of all tensor names except the heads': `bert.`.
    pub fn plain(class: &'static str, prefix: &'static str, config: &Config, role: Role) -> Self {
        Design {
            class,
            param_names: ParamNames::plain(prefix, config.num_hidden_layers, role),
            embedding: None,
            projects_first: false,
            first_position: Some(0),
            segments: if config.type_vocab_size > 0 { Segments::Each } else { Segments::None },
            layers: (0..config.num_hidden_layers).collect(),
            scale: 1.0 / (config.head_dim() as f64).sqrt(),
            convolution: None,
            attended_dropout: config.hidden_dropout_prob,
            mlp_dropout: config.hidden_dropout_prob,
            pooler_activation: Activation::Tanh,
            pooler_dropout: None,
            lm_activation: config.activation,
            head_dropout: match role {
                Role::SequenceClassification | Role::TokenClassification | Role::MultipleChoice => {
                    Some(config.classifier_dropout.unwrap_or(config.hidden_dropout_prob))
                }
                _ => None,
            },
        }
    }
}
