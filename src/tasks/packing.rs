//! Packs documents into blocks of a maximum length, without padding and without cutting documents that fit.
//!
//! Best-fit-decreasing bin packing ("Fewer Truncations Improve Language Modeling", arXiv 2404.10830): only a document
//! longer than a block is divided, into full blocks and a rest. Then each piece, the longest first, goes to the block
//! with the least room that still holds it, or to a new one. Each piece is a separate sequence with its own positions;
//! attention does not cross pieces.

use std::collections::BTreeSet;
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

    /// Packs documents of these lengths into blocks; documents shorter than [`Blocks::minimum`] are skipped. The blocks,
    /// and the pieces of a block, are in the order of their first documents. Takes O(n log n) for n documents.
    ///
    /// # Panics
    /// If a block has no room for two pieces of minimum length: the caller must check this.
    pub fn pack(&self, lengths: &[usize]) -> Vec<Vec<Piece>> {
        let mut pieces = self.pieces(lengths);
        // Stable: of pieces of one length the first comes first.
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.tokens.len()));
        let mut blocks: Vec<Vec<Piece>> = Vec::new();
        // Each block's room and index.
        let mut rooms: BTreeSet<(usize, usize)> = BTreeSet::new();
        for piece in pieces {
            let size = piece.tokens.len() + self.special_tokens;
            let tightest = rooms.range((size, 0)..).next().copied();
            let (room, block) = tightest.unwrap_or_else(|| {
                blocks.push(Vec::new());
                (self.length, blocks.len() - 1)
            });
            rooms.remove(&(room, block));
            rooms.insert((room - size, block));
            blocks[block].push(piece);
        }
        let place = |piece: &Piece| (piece.document, piece.tokens.start);
        for block in &mut blocks {
            block.sort_unstable_by_key(place);
        }
        blocks.sort_unstable_by_key(|block| block.first().map(place));
        blocks
    }

    /// Returns the documents that are long enough, in pieces of at most [`Blocks::room`] tokens.
    fn pieces(&self, lengths: &[usize]) -> Vec<Piece> {
        let Blocks { length, minimum, .. } = *self;
        let room = self.room();
        assert!(room + 1 >= 2 * minimum && minimum > 0, "blocks of {length} tokens are too short");
        let mut pieces = Vec::with_capacity(lengths.len());
        for (document, &n) in lengths.iter().enumerate().filter(|(_, n)| **n >= minimum) {
            let mut start = 0;
            while start < n {
                let rest = n - start;
                // What is left of the document must also be long enough for a piece.
                let tokens = if rest <= room { rest } else { room.min(rest - minimum) };
                pieces.push(Piece { document, tokens: start..start + tokens });
                start += tokens;
            }
        }
        pieces
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
    fn documents_that_fit_stay_whole() {
        let blocks = Blocks { length: 8, special_tokens: 0, minimum: 2 };
        let whole = |document: usize, n: usize| (document, 0..n);
        assert_eq!(pack(blocks, &[3, 5, 2]), [vec![whole(0, 3), whole(1, 5)], vec![whole(2, 2)]]);
        // In the order of the file these take four blocks.
        assert_eq!(
            pack(blocks, &[3, 6, 4, 2, 4, 5]),
            [vec![whole(0, 3), whole(5, 5)], vec![whole(1, 6), whole(3, 2)], vec![whole(2, 4), whole(4, 4)]]
        );
        // Of the blocks with room for 2, the fuller one is taken.
        assert_eq!(pack(blocks, &[5, 6, 2]), [vec![whole(0, 5)], vec![whole(1, 6), whole(2, 2)]]);
        let with_special = Blocks { special_tokens: 2, minimum: 1, ..blocks };
        assert_eq!(pack(with_special, &[3, 5]), [[whole(0, 3)], [whole(1, 5)]]);
        assert_eq!(pack(with_special, &[3, 1]), [[whole(0, 3), whole(1, 1)]]);
    }

    #[test]
    fn long_documents_fill_blocks() {
        let blocks = Blocks { length: 8, special_tokens: 0, minimum: 2 };
        assert_eq!(pack(blocks, &[20, 4]), [vec![(0, 0..8)], vec![(0, 8..16)], vec![(0, 16..20), (1, 0..4)]]);
        assert_eq!(pack(blocks, &[1, 9, 1]), [vec![(1, 0..7)], vec![(1, 7..9)]], "no single token at the end");
        assert_eq!(pack(blocks, &[0, 1]), [[]; 0]);
    }

    /// Every token of every document that is long enough occurs exactly once; a document that fits is one piece, and no
    /// two blocks fit into one.
    #[test]
    fn all_tokens_are_packed_once() {
        for (length, special_tokens, minimum) in [(3, 0, 2), (5, 0, 2), (8, 0, 2), (3, 2, 1), (5, 2, 1), (8, 3, 2)] {
            let blocks = Blocks { length, special_tokens, minimum };
            for seed in 0..500_usize {
                let lengths: Vec<usize> = (0..6).map(|i| ((seed * 7919) >> (2 * i)) % 13).collect();
                let packed = blocks.pack(&lengths);
                let size =
                    |block: &Vec<Piece>| block.iter().map(|piece| piece.tokens.len() + special_tokens).sum::<usize>();
                let mut found = vec![Vec::new(); lengths.len()];
                for (b, block) in packed.iter().enumerate() {
                    assert!(size(block) <= length && !block.is_empty(), "{blocks:?} {lengths:?}: {packed:?}");
                    let joined = packed[b + 1..].iter().find(|other| size(block) + size(other) <= length);
                    assert_eq!(joined, None, "{blocks:?} {lengths:?}: {packed:?}");
                    for piece in block {
                        assert!(piece.tokens.len() >= minimum);
                        found[piece.document].push(piece.tokens.clone());
                    }
                }
                for (&n, pieces) in lengths.iter().zip(&mut found) {
                    pieces.sort_by_key(|tokens| tokens.start);
                    assert!(n > blocks.room() || pieces.len() == usize::from(n >= minimum), "{n}: {pieces:?}");
                    assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
                    assert_eq!(pieces.last().map_or(0, |tokens| tokens.end), if n < minimum { 0 } else { n });
                    assert_eq!(pieces.first().map_or(0, |tokens| tokens.start), 0);
                }
                assert_eq!(packed, blocks.pack(&lengths));
            }
        }
    }
}
