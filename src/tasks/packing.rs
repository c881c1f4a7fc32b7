//! Packs documents into blocks of a maximum length, without padding.
//!
//! Documents fill the blocks in order. A document that does not fit is split: one piece fills the block, the rest
//! starts the next one. Each piece is a separate sequence with its own positions; attention does not cross pieces.

use std::ops::Range;

/// The limits of blocks and pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Maximum number of tokens of a block, special tokens included.
    pub length: usize,
    /// Number of special tokens added to each piece.
    pub special_tokens: usize,
    /// Minimum number of tokens of a piece, so that it has a target; less than [`Self::room`].
    pub minimum: usize,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub document: usize,
    /// Range of its tokens in the document.
    pub tokens: Range<usize>,
}

impl Blocks {
    /// Number of document tokens that fit in an empty block.
    pub fn room(&self) -> usize {
        self.length.saturating_sub(self.special_tokens)
    }

    /// Packs documents of these lengths into blocks; documents shorter than [`Blocks::minimum`] are skipped.
    ///
    /// # Panics
    /// If a block has no room for two pieces of minimum length: the caller must check this.
    pub fn pack(&self, lengths: &[usize]) -> Vec<Vec<Piece>> {
        let Blocks { length, special_tokens, minimum } = *self;
        assert!(self.room() + 1 >= 2 * minimum && minimum > 0, "blocks of {length} tokens are too short");
        let mut blocks: Vec<Vec<Piece>> = Vec::new();
        let mut left = 0;
        for (document, &n) in lengths.iter().enumerate().filter(|(_, n)| **n >= minimum) {
            let mut start = 0;
            while start < n {
                let rest = n - start;
                let room = left.min(length).saturating_sub(special_tokens);
                // The rest of the document must also be long enough for a piece.
                let fits = if rest <= room { rest } else { room.min(rest - minimum) };
                if fits < minimum {
                    blocks.push(Vec::new());
                    left = length;
                    continue;
                }
                if let Some(block) = blocks.last_mut() {
                    block.push(Piece { document, tokens: start..start + fits });
                }
                left -= special_tokens + fits;
                start += fits;
            }
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(blocks: Blocks, lengths: &[usize]) -> Vec<Vec<(usize, Range<usize>)>> {
        let packed = blocks.pack(lengths);
        packed.into_iter().map(|b| b.into_iter().map(|piece| (piece.document, piece.tokens)).collect()).collect()
    }

    #[test]
    fn documents_fill_blocks_in_order() {
        let blocks = Blocks { length: 8, special_tokens: 0, minimum: 2 };
        assert_eq!(pack(blocks, &[3, 5, 2]), [vec![(0, 0..3), (1, 0..5)], vec![(2, 0..2)]]);
        assert_eq!(pack(blocks, &[20]), [vec![(0, 0..8)], vec![(0, 8..16)], vec![(0, 16..20)]]);
        let with_special = Blocks { special_tokens: 2, minimum: 1, ..blocks };
        assert_eq!(pack(with_special, &[3, 5]), [vec![(0, 0..3), (1, 0..1)], vec![(1, 1..5)]]);
    }

    #[test]
    fn no_piece_is_too_short() {
        let blocks = Blocks { length: 8, special_tokens: 0, minimum: 2 };
        assert_eq!(pack(blocks, &[1, 9, 1]), [vec![(1, 0..7)], vec![(1, 7..9)]], "no single token at the end");
        assert_eq!(pack(blocks, &[7, 4]), [vec![(0, 0..7)], vec![(1, 0..4)]], "nor at a block's end");
        assert_eq!(pack(blocks, &[6, 3]), [vec![(0, 0..6)], vec![(1, 0..3)]], "nor after a piece that fits");
        assert_eq!(pack(blocks, &[0, 1]), [[]; 0]);
    }

    /// Every token of every document that is long enough occurs exactly once, in order.
    #[test]
    fn all_tokens_are_packed_once() {
        for (length, special_tokens, minimum) in [(3, 0, 2), (5, 0, 2), (8, 0, 2), (3, 2, 1), (5, 2, 1), (8, 3, 2)] {
            let blocks = Blocks { length, special_tokens, minimum };
            for seed in 0..500_usize {
                let lengths: Vec<usize> = (0..6).map(|i| ((seed * 7919) >> (2 * i)) % 13).collect();
                let packed = blocks.pack(&lengths);
                let mut ends = vec![0; lengths.len()];
                for block in &packed {
                    let tokens: usize = block.iter().map(|piece| piece.tokens.len() + special_tokens).sum();
                    assert!(tokens <= length && !block.is_empty(), "{blocks:?} {lengths:?}: {packed:?}");
                    for piece in block {
                        assert_eq!(piece.tokens.start, ends[piece.document]);
                        assert!(piece.tokens.len() >= minimum);
                        ends[piece.document] = piece.tokens.end;
                    }
                }
                let wanted: Vec<usize> = lengths.iter().map(|&n| if n < minimum { 0 } else { n }).collect();
                assert_eq!(ends, wanted);
                assert_eq!(packed, blocks.pack(&lengths));
            }
        }
    }
}
