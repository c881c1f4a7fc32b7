//! Reading and writing safetensors files (<https://github.com/huggingface/safetensors>, the format section).

use crate::error::{Context, Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// A safetensors file mapped into memory, its header read.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensors' bytes begin.
    start: usize,
}

impl TensorFile {
    /// Maps a file and checks its header against its size.
    ///
    /// # Errors
    /// Exit 2: no such file, or one that is cut off or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).input_context(path.display())?;
        // SAFETY: the map is read only; a file that another process shortens meanwhile would fault, as with any mapped file.
        let map = unsafe { Mmap::map(&file) }.input_context(path.display())?;
        let (length, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::input(format!(
                "{}: not a whole safetensors file ({e}); it has {} bytes: was the download or the copy cut off?",
                path.display(),
                map.len()
            ))
        })?;
        Ok(TensorFile { path: path.to_owned(), map, header, start: size_of::<u64>() + length })
    }

    /// The tensors' names, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// Exit 2 when the file has no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.info(name)?.shape.iter().map(|&n| n as i64).collect())
    }

    /// A tensor on the CPU, with the type that it has in the file.
    ///
    /// # Errors
    /// Exit 2 when the file has no such tensor, or it is not of a floating-point or integer type that libtorch has.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let kind = match info.dtype {
            Dtype::F64 => Kind::Double,
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::I64 => Kind::Int64,
            other => return Err(self.error(name, format!("type {other:?} cannot be loaded"))),
        };
        let shape = self.shape(name)?;
        let (begin, end) = info.data_offsets;
        if begin == end {
            return Ok(Tensor::zeros(shape, (kind, Device::Cpu)));
        }
        Ok(Tensor::f_from_data_size(&self.map[self.start + begin..self.start + end], &shape, kind)?)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| self.error(name, "the file has no such tensor"))
    }

    fn error(&self, name: &str, e: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: tensor {name}: {e}", self.path.display()))
    }
}

/// A tensor to be written: f32, contiguous, on the CPU.
struct Source {
    tensor: Tensor,
    shape: Vec<usize>,
}

impl View for Source {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(crate::ffi::bytes(&self.tensor))
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.dtype().bitsize() / 8
    }
}

/// Writes named tensors as f32 and flushes the file to the disk. The header says `{"format": "pt"}`, which transformers asks for.
///
/// # Errors
/// The file's name and what the system says: a full disk, no permission.
pub fn write(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let sources = tensors.into_iter().map(|(name, tensor)| {
        let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        (name, Source { tensor, shape })
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(sources, Some(metadata), path)
        .map_err(|e| Error::other(format!("{}: cannot be written: {e}", path.display())))?;
    // The library makes a private temporary file and renames it; a model is to be read like any other file.
    let readable = std::fs::Permissions::from_mode(0o644);
    File::open(path).and_then(|f| f.set_permissions(readable).and_then(|()| f.sync_all())).context(path.display())
}
