//! Text from a causal model or an encoder-decoder: greedy, drawn, or by beam search, with a cache of keys and values.
//!
//! Prompts of different lengths run together, ragged, and a text's tokens do not depend on its neighbours. Everything is
//! token for token what transformers' `generate` gives, whose left-padded batches mean the same; a draw is a function of
//! the record and the position alone.

pub mod beam;
pub mod decoding;
pub mod scores;
pub mod search;
pub mod settings;

pub use decoding::{Passes, generate};
pub use settings::Settings;

use crate::nn::rng;

/// What a text is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The prompt of a causal model, or the source of an encoder-decoder; not empty.
    pub ids: Vec<u32>,
    /// What draws go by: the record's place in its file.
    pub record: u64,
}

/// Generated tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text {
    /// `[n]`, the end token included where there is one.
    pub ids: Vec<u32>,
    /// `[n]`: the logarithm of the probability that the model gave to each, whatever was done to find it.
    pub log_probs: Vec<f32>,
}

impl Text {
    /// One token longer.
    fn with(&self, token: u32, log_prob: f32) -> Self {
        let mut longer = self.clone();
        longer.push(token, log_prob);
        longer
    }

    fn push(&mut self, token: u32, log_prob: f32) {
        self.ids.push(token);
        self.log_probs.push(log_prob);
    }
}

/// The number from 0 up and below 1 that the token at `position` of a record's text is drawn by.
pub fn uniform(seed: u64, record: u64, position: usize) -> f64 {
    (rng::key(seed, &[record, position as u64]) >> 11) as f64 / (1u64 << 53) as f64
}
