//! What distinguishes the families.

use super::{Config, Spelling};
use crate::models::Role;
use crate::nn::activation::Activation;

/// What a family's encoder in a role has of its own.
#[derive(Debug)]
pub struct Design {
    /// How its class names begin: `Bert`.
    pub class: &'static str,
    pub spelling: Spelling,
    /// The width of the embeddings, if a linear layer leads from them to the layers' width.
    pub embedding: Option<i64>,
    /// The row of the table of positions that a text begins with.
    pub first_position: i64,
    pub segments: Segments,
    /// The block that each layer runs: those of the same number are one.
    pub layers: Vec<usize>,
    /// Dropout on the output of attention.
    pub attended_dropout: f64,
    /// Dropout on the output of the feed-forward part.
    pub mlp_dropout: f64,
    pub pooler_activation: Activation,
    /// Whether the dropout before a head comes before the pooler too.
    pub pooler_drops: bool,
    /// In the head of the language model.
    pub lm_activation: Activation,
    /// The dropout before a task's own layer, where the family has one in this role.
    pub head_dropout: Option<f64>,
}

/// What an encoder makes of a pair's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// Each has its row of a table.
    Each,
    /// There is a table, and all take its first row.
    First,
    /// There is no table.
    None,
}

impl Design {
    /// As in BERT. `prefix` stands before the names of all tensors but the heads': `bert.`.
    pub fn plain(class: &'static str, prefix: &'static str, config: &Config, role: Role) -> Self {
        Design {
            class,
            spelling: Spelling::plain(prefix, config.num_hidden_layers, role),
            embedding: None,
            first_position: 0,
            segments: Segments::Each,
            layers: (0..config.num_hidden_layers).collect(),
            attended_dropout: config.hidden_dropout_prob,
            mlp_dropout: config.hidden_dropout_prob,
            pooler_activation: Activation::Tanh,
            pooler_drops: false,
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
