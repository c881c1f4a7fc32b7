//! Reading safetensors files (<https://github.com/huggingface/safetensors>, the format section).

use crate::error::{Context, Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use std::fs::File;
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
        let info = self.info(name)?;
        let kind = KINDS.iter().find(|(_, dtype)| *dtype == info.dtype).map(|(kind, _)| *kind);
        let kind = kind.ok_or_else(|| self.error(name, format!("dtype {:?} is not supported", info.dtype)))?;
        let shape = self.shape(name)?;
        let (begin, end) = info.data_offsets;
        if begin == end {
            return Ok(Tensor::zeros(shape, (kind, Device::Cpu)));
        }
        Ok(Tensor::f_from_data_size(&self.map[self.start + begin..self.start + end], &shape, kind)?)
    }

    /// Like [`TensorFile::read`], and checks the shape.
    ///
    /// # Errors
    /// Exit 2 if the shape differs.
    pub fn read_shaped(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let found = self.shape(name)?;
        if found != shape {
            return Err(self.error(name, format!("its shape is {found:?}, the model's is {shape:?}")));
        }
        self.read(name)
    }

    /// Whether the file contains this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| self.error(name, "the file has no such tensor"))
    }

    fn error(&self, name: &str, e: impl std::fmt::Display) -> Error {
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
