//! Documents become blocks of at most so many tokens, without padding and without mixing them.
//!
//! A block is filled with the documents in their order. One that does not fit is cut: a piece ends the block, and the
//! rest opens the next one. Each piece is a sequence of its own, so that no document sees another, and positions start
//! again with it.

use std::ops::Range;

/// What blocks are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Tokens of a block at most, those around its pieces included.
    pub length: usize,
    /// Tokens that are put around each piece.
    pub around: usize,
    /// Tokens that a piece needs: of fewer nothing can be learnt. Less than what a block holds.
    pub least: usize,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub document: usize,
    /// Its tokens.
    pub tokens: Range<usize>,
}

impl Blocks {
    /// The tokens of a document that an empty block takes.
    pub fn room(&self) -> usize {
        self.length.saturating_sub(self.around)
    }

    /// Divides documents of these lengths over blocks; a document shorter than [`Blocks::least`] is left out.
    ///
    /// # Panics
    /// If a block has no room for twice the least piece: its caller checks that.
    pub fn pack(&self, lengths: &[usize]) -> Vec<Vec<Piece>> {
        let Blocks { length, around, least } = *self;
        assert!(self.room() + 1 >= 2 * least && least > 0, "blocks of {length} tokens are too short");
        let mut blocks: Vec<Vec<Piece>> = Vec::new();
        let mut left = 0;
        for (document, &n) in lengths.iter().enumerate().filter(|(_, n)| **n >= least) {
            let mut start = 0;
            while start < n {
                let rest = n - start;
                let room = left.min(length).saturating_sub(around);
                // What remains of a document must be enough for a piece too.
                let fits = if rest <= room { rest } else { room.min(rest - least) };
                if fits < least {
                    blocks.push(Vec::new());
                    left = length;
                    continue;
                }
                if let Some(block) = blocks.last_mut() {
                    block.push(Piece { document, tokens: start..start + fits });
                }
                left -= around + fits;
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
        let blocks = Blocks { length: 8, around: 0, least: 2 };
        assert_eq!(pack(blocks, &[3, 5, 2]), [vec![(0, 0..3), (1, 0..5)], vec![(2, 0..2)]]);
        assert_eq!(pack(blocks, &[20]), [vec![(0, 0..8)], vec![(0, 8..16)], vec![(0, 16..20)]]);
        let around = Blocks { around: 2, least: 1, ..blocks };
        assert_eq!(pack(around, &[3, 5]), [vec![(0, 0..3), (1, 0..1)], vec![(1, 1..5)]]);
    }

    #[test]
    fn no_piece_is_too_short() {
        let blocks = Blocks { length: 8, around: 0, least: 2 };
        assert_eq!(pack(blocks, &[1, 9, 1]), [vec![(1, 0..7)], vec![(1, 7..9)]], "no single token at the end");
        assert_eq!(pack(blocks, &[7, 4]), [vec![(0, 0..7)], vec![(1, 0..4)]], "nor at a block's end");
        assert_eq!(pack(blocks, &[6, 3]), [vec![(0, 0..6)], vec![(1, 0..3)]], "nor after a piece that fits");
        assert_eq!(pack(blocks, &[0, 1]), [[]; 0]);
    }

    /// For all small documents: every token of every document that is long enough, once, in order.
    #[test]
    fn nothing_is_lost() {
        for (length, around, least) in [(3, 0, 2), (5, 0, 2), (8, 0, 2), (3, 2, 1), (5, 2, 1), (8, 3, 2)] {
            let blocks = Blocks { length, around, least };
            for seed in 0..500_usize {
                let lengths: Vec<usize> = (0..6).map(|i| ((seed * 7919) >> (2 * i)) % 13).collect();
                let packed = blocks.pack(&lengths);
                let mut ends = vec![0; lengths.len()];
                for block in &packed {
                    let tokens: usize = block.iter().map(|piece| piece.tokens.len() + around).sum();
                    assert!(tokens <= length && !block.is_empty(), "{blocks:?} {lengths:?}: {packed:?}");
                    for piece in block {
                        assert_eq!(piece.tokens.start, ends[piece.document]);
                        assert!(piece.tokens.len() >= least);
                        ends[piece.document] = piece.tokens.end;
                    }
                }
                let wanted: Vec<usize> = lengths.iter().map(|&n| if n < least { 0 } else { n }).collect();
                assert_eq!(ends, wanted);
                assert_eq!(packed, blocks.pack(&lengths));
            }
        }
    }
}
