//! Attention masks.

use tch::{Device, Kind, Tensor};

/// The attention mask within a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    Bidirectional,
    /// Causal: a query attends to its own position and earlier ones.
    Causal,
    /// Causal within a sliding window of this many positions (arXiv 2004.05150; Mistral's `sliding_window`).
    SlidingWindow(i64),
    /// Bidirectional within a sliding window: a query attends to positions less than this many away (arXiv 2004.05150).
    BidirectionalWindow(i64),
}

impl Mask {
    /// Returns whether no query attends to later positions.
    pub fn is_causal(self) -> bool {
        matches!(self, Mask::Causal | Mask::SlidingWindow(_))
    }

    /// Returns the window: a query attends only to positions less than this many away.
    pub fn window(self) -> Option<i64> {
        match self {
            Mask::SlidingWindow(window) | Mask::BidirectionalWindow(window) => Some(window),
            Mask::Bidirectional | Mask::Causal => None,
        }
    }

    /// Returns the number of keys in a window, infinite without one.
    pub(super) fn reach(self) -> f64 {
        match self {
            Mask::Bidirectional | Mask::Causal => f64::INFINITY,
            Mask::SlidingWindow(window) => window as f64,
            Mask::BidirectionalWindow(window) => (2 * window - 1) as f64,
        }
    }

    /// Returns f32 `[queries, keys]`: 0 where a query attends to a key, minus infinity elsewhere. The first query is at
    /// the position of key `start`.
    pub(super) fn tensor(self, [queries, keys]: [i64; 2], start: i64, device: Device) -> Tensor {
        let ones = Tensor::ones([queries, keys], (Kind::Bool, device));
        let after = match self {
            Mask::Bidirectional => keys,
            Mask::Causal | Mask::SlidingWindow(_) => 0,
            Mask::BidirectionalWindow(window) => window - 1,
        };
        let before = self.window().map_or(queries + keys, |window| window - 1);
        let hidden = ones.tril(start + after).logical_and(&ones.triu(start - before)).logical_not();
        Tensor::zeros([queries, keys], (Kind::Float, device)).masked_fill(&hidden, f64::NEG_INFINITY)
    }
}
