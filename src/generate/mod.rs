//! Text generation with a causal model or an encoder-decoder: greedy, sampling or beam search, with a KV cache.
//!
//! Prompts of different lengths run together in a packed batch, and a text does not depend on the others of its batch.
//! The tokens are those of transformers' `generate`, which uses left-padded batches; sampling is a function of the
//! record and the position alone. [`continuous`] does the same for texts that begin and end at different times.

pub mod beam;
pub mod continuous;
pub mod decoding;
pub mod scores;
pub mod search;
pub mod settings;

pub use decoding::{Passes, generate};
pub use settings::{Sampling, Settings};

use crate::nn::rng;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The prompt of a causal model, or the source of an encoder-decoder; not empty.
    pub ids: Vec<u32>,
    /// Part of the RNG key of sampling: the record's index in its file.
    pub record: u64,
}

/// Generated tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text {
    /// `[n]`, including the EOS token, if any.
    pub ids: Vec<u32>,
    /// `[n]`: the model's log-probability of each token, before any processing of the logits.
    pub log_probs: Vec<f32>,
}

impl Text {
    /// Returns the text with one more token.
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

/// Returns a number in [0, 1) from which the token at `position` of a record's text is sampled.
pub fn uniform(seed: u64, record: u64, position: usize) -> f64 {
    (rng::key(seed, &[record, position as u64]) >> 11) as f64 / (1u64 << 53) as f64
}
