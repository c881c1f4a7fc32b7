//! Embedding matrices.

use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::dropout;
use tch::Tensor;

/// An embedding matrix `[rows, width]` with a row-sparse gradient: a dense gradient of the vocabulary costs more than
/// everything else in a small batch.
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: ParamId,
    /// `[rows, width]`
    shape: [i64; 2],
}

/// Returns the cost of rows from this many matrices, each with this many `numbers`, and of dropout on their sum. The
/// rows are kept until their gradients exist, which is at the same time; those of one matrix without dropout are the
/// block's boundary activations.
pub fn cost(how: &ComputeMode, numbers: f64, tables: usize, dropout: f64) -> Cost {
    let (rows, tables) = (how.element() * numbers, tables as f64);
    if tables == 1.0 && dropout == 0.0 {
        return Cost::op(0.0, 0.0, rows, [0.0; 2]);
    }
    Cost::op(tables * rows, (tables - 1.0) * rows, rows, [rows, 0.0]).then(dropout::cost(how, numbers, dropout))
}

impl Embedding {
    /// Declares `weight` `[rows, width]`, initialized with standard deviation `std`.
    pub fn new(b: &mut ParamBuilder, name: &str, rows: i64, width: i64, std: f64) -> Self {
        b.scope(name, |b| Embedding {
            weight: b.weight("weight", &[rows, width], Init::Normal { std }),
            shape: [rows, width],
        })
    }

    /// Declares an input embedding matrix that no head shares.
    pub fn vocabulary(b: &mut ParamBuilder, name: &str, rows: i64, width: i64, std: f64) -> Self {
        b.scope(name, |b| Embedding {
            weight: b.vocabulary("weight", rows, width, Init::Normal { std }),
            shape: [rows, width],
        })
    }

    /// Declares the input embedding matrix; a head that is `tied` to it needs its dense gradient.
    pub fn words(b: &mut ParamBuilder, name: &str, rows: i64, width: i64, std: f64, tied: bool) -> Self {
        if tied { Self::new(b, name, rows, width, std) } else { Self::vocabulary(b, name, rows, width, std) }
    }

    /// The same look-up in the builder's block, a later one.
    pub fn shared(&self, b: &mut ParamBuilder) -> Self {
        b.borrow_rows(self.weight);
        self.clone()
    }

    /// Number of rows and their width.
    pub fn shape(&self) -> [i64; 2] {
        self.shape
    }

    pub fn weight(&self) -> ParamId {
        self.weight
    }

    /// Looks up `ids` `[T]`: `[T, width]`. Every id must be below the number of rows (checked when data is prepared).
    pub fn forward(&self, ctx: &mut Ctx, ids: &Tensor) -> Tensor {
        ctx.rows(self.weight, ids)
    }
}
