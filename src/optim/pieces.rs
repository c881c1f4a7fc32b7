//! The tensors of a unit as optimizers that need whole matrices see them.

use std::ops::Range;

/// A tensor of the Hugging Face model within a unit. Queries, keys and values, which are one parameter here, are three.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Index of the parameter among the unit's.
    pub member: usize,
    /// Elements of the unit.
    pub range: Range<i64>,
    /// Rows (outputs) and columns (inputs); `None` for a vector.
    pub matrix: Option<[i64; 2]>,
    /// Whether it is a matrix of a hidden layer, not of embeddings or the head.
    pub hidden: bool,
}

/// What a rank updates of one unit.
#[derive(Debug)]
pub struct UnitShape<'a> {
    /// f32 `[n]`.
    pub weights: &'a tch::Tensor,
    /// The elements of the unit that these are.
    pub owned: Range<i64>,
    /// The tensors, in the order of the unit.
    pub pieces: Vec<Piece>,
}

/// A unit in an update of whole matrices: `weights` and `grads` `[n]` are its elements `owned`.
#[derive(Clone, Copy)]
pub struct UnitUpdate<'a> {
    pub pieces: &'a [Piece],
    pub owned: &'a Range<i64>,
    /// f32.
    pub weights: &'a tch::Tensor,
    /// Of any float dtype, to be divided by `grad_scale`.
    pub grads: &'a tch::Tensor,
    pub grad_scale: f64,
}

/// Returns the ranges of the pieces that satisfy a condition, neighbors joined.
pub fn ranges(pieces: &[Piece], wanted: impl Fn(&Piece) -> bool) -> Vec<Range<i64>> {
    let mut all: Vec<Range<i64>> = Vec::new();
    for piece in pieces.iter().filter(|piece| wanted(piece)) {
        match all.last_mut() {
            Some(last) if last.end == piece.range.start => last.end = piece.range.end,
            _ => all.push(piece.range.clone()),
        }
    }
    all
}
