//! Reading safetensors files (<https://github.com/huggingface/safetensors>, the format section).

use crate::error::{Context, Error, Result};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// A memory-mapped safetensors file with its parsed header.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Offset of the tensor data.
    start: usize,
}

impl TensorFile {
    /// Maps a file and checks its header against its size.
    ///
    /// # Errors
    /// Exit 2: no such file, or a truncated or damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).input_context(path.display())?;
        // SAFETY: the map is read only; a file that another process shortens meanwhile would fault, as with any mapped
        // file.
        let map = unsafe { Mmap::map(&file) }.input_context(path.display())?;
        let (length, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::input(format!(
                "{}: not a complete safetensors file ({e}); it has {} bytes: was the download or the copy interrupted?",
                path.display(),
                map.len()
            ))
        })?;
        Ok(TensorFile { path: path.to_owned(), map, header, start: size_of::<u64>() + length })
    }

    /// Returns the tensor names in file order.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Returns the shape of a tensor.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.info(name)?.shape.iter().map(|&n| n as i64).collect())
    }

    /// Reads a tensor to the CPU, with its dtype in the file.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor, or libtorch does not support its dtype.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let (kind, shape) = (self.kind(name)?, self.shape(name)?);
        let bytes = &self.map[self.place(name)?];
        if bytes.is_empty() {
            return Ok(Tensor::zeros(shape, (kind, Device::Cpu)));
        }
        Ok(Tensor::f_from_data_size(bytes, &shape, kind)?)
    }

    /// Returns the dtype of a tensor.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor, or libtorch does not support its dtype.
    pub fn kind(&self, name: &str) -> Result<Kind> {
        let dtype = self.info(name)?.dtype;
        let kind = KINDS.iter().find(|(_, ours)| *ours == dtype).map(|(kind, _)| *kind);
        kind.ok_or_else(|| self.error(name, format!("dtype {dtype:?} is not supported")))
    }

    /// Calls `body` with elements `range` of a tensor in row-major order, `[range]` in the file's dtype. They are not
    /// copied: `body` must neither change nor keep the tensor. Afterwards their pages no longer count as memory of this
    /// process.
    ///
    /// # Errors
    /// Those of [`TensorFile::kind`], and of `body`.
    pub(super) fn with<T>(&self, name: &str, range: &Range<i64>, body: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let (kind, place) = (self.kind(name)?, self.place(name)?);
        let (width, size) = (kind.elt_size_in_bytes(), [range.end - range.start]);
        let place = place.start + range.start as usize * width..place.start + range.end as usize * width;
        let bytes = &self.map[place.clone()];
        if bytes.is_empty() {
            return body(&Tensor::f_zeros([0], (kind, Device::Cpu))?);
        }
        let is_aligned = bytes.as_ptr().align_offset(width) == 0;
        let values = if is_aligned {
            // SAFETY: the slice has `size` aligned elements of any bits, which live as long as the map and are only
            // read: callers are in this module's parent, and keep to the documentation above.
            unsafe { Tensor::f_from_blob(bytes.as_ptr(), &size, &[1], kind, Device::Cpu) }?
        } else {
            // Files that other programs have written may lack the padding after the header.
            Tensor::f_from_data_size(bytes, &size, kind)?
        };
        let result = body(&values);
        drop(values);
        self.release(place);
        result
    }

    /// Adds dtype, shape and sampled bytes of a tensor to a hash: all of a small tensor; of a large one a block in each
    /// 16 MiB and the last one, 1/256 of it.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor.
    pub(super) fn sample(&self, name: &str, hasher: &mut blake3::Hasher) -> Result<()> {
        const STRIDE: usize = 16 << 20;
        const BLOCK: usize = STRIDE / 256;
        let (info, place) = (self.info(name)?, self.place(name)?);
        hasher.update(format!("{:?} {:?};", info.dtype, info.shape).as_bytes());
        let last = place.end.saturating_sub(BLOCK).max(place.start);
        for start in place.clone().step_by(STRIDE).filter(|&start| start < last).chain([last]) {
            let block = start..place.end.min(start + BLOCK);
            hasher.update(&self.map[block.clone()]);
            self.release(block);
        }
        Ok(())
    }

    /// Whether two tensors, of this file and of another, have the same dtype, shape and bytes.
    ///
    /// # Errors
    /// Exit 2 if a file has no such tensor.
    pub(super) fn equals(&self, name: &str, other: &TensorFile, its_name: &str) -> Result<bool> {
        const PIECE: usize = 16 << 20;
        let (mine, its) = (self.info(name)?, other.info(its_name)?);
        if mine.dtype != its.dtype || mine.shape != its.shape {
            return Ok(false);
        }
        let (mine, its) = (self.place(name)?, other.place(its_name)?);
        for at in (0..mine.len()).step_by(PIECE) {
            let end = mine.len().min(at + PIECE);
            let (a, b) = (mine.start + at..mine.start + end, its.start + at..its.start + end);
            let same = self.map[a.clone()] == other.map[b.clone()];
            self.release(a);
            other.release(b);
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the bytes of a tensor in the map.
    fn place(&self, name: &str) -> Result<Range<usize>> {
        let (begin, end) = self.info(name)?.data_offsets;
        Ok(self.start + begin..self.start + end)
    }

    /// Gives bytes of the map back, which the system keeps in its cache: a rank that reads a file larger than its
    /// memory must not seem to hold it.
    fn release(&self, place: Range<usize>) {
        // SAFETY: the pages of a file that is mapped for reading are read again when they are used again.
        let advised = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, place.start, place.len()) };
        // Without it, only the figure is larger.
        _ = advised;
    }

    /// Checks the shape of a tensor.
    ///
    /// # Errors
    /// Exit 2 if the shape differs.
    pub fn expect_shape(&self, name: &str, shape: &[i64]) -> Result<()> {
        let found = self.shape(name)?;
        if found == shape {
            return Ok(());
        }
        Err(self.error(name, format!("its shape is {found:?}, the model's is {shape:?}")))
    }

    /// Whether the file contains this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| self.error(name, "the file has no such tensor"))
    }

    pub(super) fn error(&self, name: &str, e: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: tensor {name}: {e}", self.path.display()))
    }
}

const KINDS: &[(Kind, Dtype)] = &[
    (Kind::Double, Dtype::F64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
];

/// Returns the dtype in the format; `None` if it is not supported.
pub(super) fn dtype(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(ours, _)| *ours == kind).map(|(_, dtype)| *dtype)
}
