//! A column of numbers, owned or mapped from a file.

use memmap2::Mmap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Numbers for which all bit patterns are valid.
pub(super) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for u64 {}

/// A mapped file, with the lock of its handle, which ends when that is closed.
pub(super) struct MappedFile {
    map: Mmap,
    _handle: File,
}

impl MappedFile {
    pub fn new(map: Mmap, handle: File) -> Self {
        MappedFile { map, _handle: handle }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// A slice of `T`, in memory or in a mapped file.
pub(super) enum Column<T: Plain> {
    Owned(Vec<T>),
    Mapped { map: Arc<MappedFile>, bytes: Range<usize>, of: std::marker::PhantomData<T> },
}

impl<T: Plain> Column<T> {
    /// Returns the numbers in `bytes` of a map, in native byte order; `None` if the range is outside the map, not
    /// aligned for `T`, or not a multiple of `T`'s size.
    pub fn mapped(map: &Arc<MappedFile>, bytes: Range<usize>) -> Option<Self> {
        let slice = map.get(bytes.clone())?;
        let fits = slice.as_ptr().cast::<T>().is_aligned() && slice.len().is_multiple_of(size_of::<T>());
        fits.then(|| Column::Mapped { map: map.clone(), bytes, of: std::marker::PhantomData })
    }

    /// Returns the bytes of the numbers, in native byte order.
    pub fn bytes(&self) -> &[u8] {
        let slice: &[T] = self;
        // SAFETY: `T` is one of the unsigned integers above, which have no padding bytes.
        unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), size_of_val(slice)) }
    }
}

impl<T: Plain> Deref for Column<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Column::Owned(numbers) => numbers,
            Column::Mapped { map, bytes, .. } => {
                let slice = &map[bytes.clone()];
                // SAFETY: `mapped` checked alignment and size, any bytes are a valid `T`, and the map neither
                // moves nor ends while `self` holds it.
                unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len() / size_of::<T>()) }
            }
        }
    }
}

impl<T: Plain> From<Vec<T>> for Column<T> {
    fn from(numbers: Vec<T>) -> Self {
        Column::Owned(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_column_is_the_owned_one() {
        let owned = Column::from(vec![1_u32, 2, u32::MAX]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [&[0; 8], owned.bytes()].concat()).unwrap();
        let handle = file.reopen().unwrap();
        // SAFETY: nothing else writes to the file of this test.
        let map = unsafe { Mmap::map(&handle) }.unwrap();
        let map = Arc::new(MappedFile::new(map, handle));
        let mapped = Column::<u32>::mapped(&map, 8..20).unwrap();
        drop(file);
        assert_eq!(*mapped, *owned);
        assert_eq!(mapped.bytes(), owned.bytes());
        assert!(Column::<u32>::mapped(&map, 6..18).is_none(), "not aligned");
        assert!(Column::<u32>::mapped(&map, 8..19).is_none(), "not a multiple of the element size");
        assert!(Column::<u32>::mapped(&map, 8..24).is_none(), "outside");
    }
}
