//! The rows of embedding matrices that a step uses.

use std::ops::Range;
use tch::Tensor;

/// The token ids of a step's global batch, ascending and unique. Every rank knows the samples of all ranks, and
/// therefore all ids. Only these rows of an embedding matrix's gradient are kept, reduced and measured.
#[derive(Debug)]
pub struct Rows {
    ids: Vec<i64>,
    tensor: Tensor,
}

impl Rows {
    /// Creates them from ids in any order, as a CPU tensor.
    pub fn new(mut ids: Vec<i64>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        let tensor = Tensor::from_slice(&ids);
        Rows { ids, tensor }
    }

    /// The ids, i64 `[U]`.
    pub fn ids(&self) -> &Tensor {
        &self.tensor
    }

    /// Returns the tensor for an upload together with others ([`crate::ffi::transfer::upload`]).
    pub fn tensor_mut(&mut self) -> &mut Tensor {
        &mut self.tensor
    }

    /// Number of rows U.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the indices i64 `[T]` in this list of `ids` `[T]`, all of which must be in it.
    pub fn positions(&self, ids: &Tensor) -> Tensor {
        ids.searchsorted(&self.tensor, false, false, "left", None::<&Tensor>)
    }

    /// Returns which of these rows are in a range of the matrix's rows, and their ids, i64, relative to `base`.
    pub fn within(&self, rows: &Range<i64>, base: i64) -> (Range<i64>, Tensor) {
        let start = self.ids.partition_point(|&id| id < rows.start) as i64;
        let end = self.ids.partition_point(|&id| id < rows.end) as i64;
        (start..end, self.tensor.narrow(0, start, end - start) - base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_shard() {
        let rows = Rows::new(vec![9, 4, 2, 4, 7]);
        assert_eq!(rows.len(), 4);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(list(&rows.positions(&Tensor::from_slice(&[7i64, 2, 9, 7]))), [2, 0, 3, 2]);
        let (range, ids) = rows.within(&(4..8), 4);
        assert_eq!((range, list(&ids)), (1..3, vec![0, 3]));
        let (range, ids) = rows.within(&(10..20), 10);
        assert_eq!((range, ids.numel()), (4..4, 0));
        let none = Rows::new(Vec::new());
        assert!(none.is_empty() && none.within(&(0..5), 0).1.numel() == 0);
    }
}
