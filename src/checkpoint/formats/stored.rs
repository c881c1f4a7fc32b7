//! The place of a tensor in a file.

use crate::checkpoint::formats::bytes::FileBytes;
use crate::error::Result;
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::ops::Range;

/// A tensor in a file: element `[i, j, ...]` is at `start + (i * strides[0] + j * strides[1] + ...) * width` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In elements, one for each dimension.
    pub strides: Vec<usize>,
    /// In bytes.
    start: usize,
    /// The bytes of the file from the first element to the last one.
    extent: Range<usize>,
    /// The number of elements.
    count: usize,
}

impl Stored {
    /// A tensor whose elements are within these bytes of the file, the first of them `offset` elements after their
    /// start. `None` if they are not, or if it has more elements than these bytes, so that it takes more memory than the
    /// file has.
    pub fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        bytes: &Range<usize>,
        offset: usize,
    ) -> Option<Self> {
        let width = dtype.bitsize() / 8;
        let room = bytes.len().checked_div(width)?;
        let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        let start = bytes.start.checked_add(offset.checked_mul(width)?)?;
        // libtorch's sizes are signed, also where there is no element.
        let is_too_long = shape.iter().any(|&size| i64::try_from(size).is_err());
        if shape.len() != strides.len() || count > room || is_too_long {
            return None;
        }
        let mut last = offset;
        if count > 0 {
            for (&size, &stride) in shape.iter().zip(&strides) {
                last = last.checked_add((size - 1).checked_mul(stride)?)?;
            }
        }
        let end = if count == 0 { start } else { bytes.start.checked_add(last.checked_add(1)?.checked_mul(width)?)? };
        (end <= bytes.end).then_some(Stored { dtype, shape, strides, start, extent: start..end, count })
    }

    /// A tensor in row-major order that takes all of these bytes of the file.
    pub fn whole(dtype: Dtype, shape: Vec<usize>, bytes: &Range<usize>) -> Option<Self> {
        let strides = row_major(&shape);
        let stored = Self::new(dtype, shape, strides, bytes, 0)?;
        (stored.count * stored.width() == bytes.len()).then_some(stored)
    }

    /// The same elements as a matrix with rows and columns exchanged, if it is a matrix.
    pub fn transposed(mut self) -> Self {
        if self.shape.len() == 2 {
            self.shape.reverse();
            self.strides.reverse();
        }
        self
    }

    /// The bytes of an element.
    pub fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns elements of the tensor in row-major order, as bytes; not copied if they are so in the file, and the
    /// range of the file that was read.
    ///
    /// # Errors
    /// Exit 2: it cannot be read.
    ///
    /// # Panics
    /// If the tensor does not have these elements.
    pub fn elements<'a>(&self, file: &'a FileBytes, range: Range<usize>) -> Result<(Cow<'a, [u8]>, Range<usize>)> {
        assert!(range.start <= range.end && range.end <= self.count, "elements {range:?} of {}", self.count);
        let width = self.width();
        if range.is_empty() {
            return Ok((Cow::Borrowed(&[]), self.start..self.start));
        }
        if is_row_major(&self.shape, &self.strides) {
            let place = self.start + range.start * width..self.start + range.end * width;
            return Ok((file.get(place.clone())?, place));
        }
        let all = file.get(self.extent.clone())?;
        let mut out = Vec::with_capacity(range.len() * width);
        // The index of the next element, and its position in `all` in elements.
        let mut index = vec![0; self.shape.len()];
        let mut left = range.start;
        for (index, &size) in index.iter_mut().zip(&self.shape).rev() {
            (*index, left) = (left % size, left / size);
        }
        let mut at: usize = index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
        for _ in range {
            out.extend_from_slice(&all[at * width..(at + 1) * width]);
            for dim in (0..index.len()).rev() {
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.shape[dim] {
                    break;
                }
                at -= index[dim] * self.strides[dim];
                index[dim] = 0;
            }
        }
        Ok((Cow::Owned(out), self.extent.clone()))
    }
}

/// Returns the strides of a tensor in row-major order, in elements. Saturating: [`Stored::new`] checks the sizes.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(shape[dim]);
    }
    strides
}

/// Whether the strides of all dimensions with more than one index are those of row-major order.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut all = shape.iter().zip(strides).zip(row_major(shape));
    all.all(|((&size, &stride), expected)| size == 1 || stride == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> FileBytes {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        FileBytes::open(file.path()).unwrap()
    }

    #[test]
    fn elements_follow_the_strides() {
        let bytes: Vec<u8> = (0..24).collect();
        let file = file(&bytes);
        let of = |shape: &[usize], strides: &[usize], offset| {
            let stored = Stored::new(Dtype::U8, shape.to_vec(), strides.to_vec(), &(0..24), offset).unwrap();
            let all = stored.elements(&file, 0..stored.count()).unwrap().0.to_vec();
            for start in 0..=all.len() {
                for end in start..=all.len() {
                    assert_eq!(*stored.elements(&file, start..end).unwrap().0, all[start..end]);
                }
            }
            all
        };
        assert_eq!(of(&[2, 3], &[3, 1], 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of(&[2, 3], &[1, 2], 0), [0, 2, 4, 1, 3, 5]);
        assert_eq!(of(&[2, 2, 2], &[12, 1, 6], 1), [1, 7, 2, 8, 13, 19, 14, 20]);
        assert_eq!(of(&[], &[], 23), [23]);
        assert_eq!((of(&[0, 3], &[3, 1], 0), of(&[1, 4], &[99, 1], 20)), (vec![], vec![20, 21, 22, 23]));
    }

    #[test]
    fn tensors_outside_their_bytes_are_none() {
        let of = |dtype, shape: &[usize], strides: &[usize], offset| {
            Stored::new(dtype, shape.to_vec(), strides.to_vec(), &(8..32), offset).is_some()
        };
        assert!(of(Dtype::F32, &[2, 3], &[3, 1], 0) && !of(Dtype::F32, &[2, 3], &[3, 1], 1));
        assert!(!of(Dtype::F32, &[7], &[1], 0) && !of(Dtype::F32, &[7], &[0], 0), "more elements than the bytes");
        assert!(!of(Dtype::F32, &[2], &[usize::MAX], 0) && !of(Dtype::F32, &[2], &[1], usize::MAX));
        assert!(!of(Dtype::F32, &[usize::MAX, 2], &[0, 0], 0) && !of(Dtype::F32, &[2], &[], 0));
        assert!(!of(Dtype::F4, &[2], &[1], 0), "elements of less than a byte");
        assert!(of(Dtype::F32, &[0, 9], &[9, 1], 0) && !of(Dtype::F32, &[0, 1 << 63], &[1, 1], 0));
        assert!(Stored::whole(Dtype::F32, vec![2, 3], &(8..32)).is_some());
        assert!(Stored::whole(Dtype::F32, vec![5], &(8..32)).is_none());
    }
}
