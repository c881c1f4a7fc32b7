//! The order of an encoder-decoder's blocks: the encoder's embeddings and layers, the decoder's embeddings and layers.
//!
//! From the decoder's embeddings on, the boundary activations include the encoder's output beside the decoder's states.

use crate::data::batch::{Batch, Decoder};
use crate::data::extent::{Extent, Extents};

/// Numbers of layers.
#[derive(Debug, Clone, Copy)]
pub struct Stacks {
    pub encoder: usize,
    pub decoder: usize,
}

/// What a block computes; layers count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Embeddings,
    EncoderLayer(usize),
    DecoderEmbeddings,
    DecoderLayer(usize),
}

impl Stacks {
    /// The block of the decoder's embeddings.
    pub fn between(self) -> usize {
        1 + self.encoder
    }

    /// Number of blocks before the head.
    pub fn blocks(self) -> usize {
        self.between() + 1 + self.decoder
    }

    pub fn part(self, block: usize) -> Part {
        let between = self.between();
        match block {
            0 => Part::Embeddings,
            _ if block < between => Part::EncoderLayer(block - 1),
            _ if block == between => Part::DecoderEmbeddings,
            _ => Part::DecoderLayer(block - between - 1),
        }
    }

    /// A block's name in messages.
    pub fn name(self, block: usize) -> String {
        match self.part(block) {
            Part::Embeddings => "embeddings".into(),
            Part::EncoderLayer(layer) => format!("encoder layer {layer}"),
            Part::DecoderEmbeddings => "decoder embeddings".into(),
            Part::DecoderLayer(layer) => format!("decoder layer {layer}"),
        }
    }
}

/// Returns the decoder's side of a batch of sources and targets.
pub fn decoder(batch: &Batch) -> &Decoder {
    batch.decoder.as_ref().expect("a batch of sources and targets")
}

/// Returns the extents of the decoder's sequences and of their attention to the encoder's: without targets, the decoder
/// has the encoder's tokens.
pub fn decoder_extents(x: &Extents) -> [Extent; 2] {
    x.decoder.unwrap_or([x.own; 2])
}
