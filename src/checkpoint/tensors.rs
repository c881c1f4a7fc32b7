//! Reading safetensors files, and writing them at once (<https://github.com/huggingface/safetensors>, the format section).

use crate::checkpoint::tensor_writer::{Entry, Writer};
use crate::error::{Context, Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use std::fs::File;
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
        let kind = KINDS.iter().find(|(_, dtype)| *dtype == info.dtype).map(|(kind, _)| *kind);
        let kind = kind.ok_or_else(|| self.error(name, format!("type {:?} cannot be loaded", info.dtype)))?;
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

/// The types that are read and written.
const KINDS: &[(Kind, Dtype)] = &[
    (Kind::Double, Dtype::F64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
];

/// The format's name of a type; `None` for one that is not written.
pub(super) fn dtype(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(ours, _)| *ours == kind).map(|(_, dtype)| *dtype)
}

/// Writes named tensors: f16 and bf16 as they are, all others as f32, which come first. For more than fits into memory at
/// once there is [`Writer`].
///
/// # Errors
/// The file's name and what the system says: a full disk, no permission.
pub fn write(path: &Path, mut tensors: Vec<(String, Tensor)>) -> Result<()> {
    let kind = |tensor: &Tensor| match tensor.kind() {
        half @ (Kind::Half | Kind::BFloat16) => half,
        _ => Kind::Float,
    };
    tensors.sort_by_key(|(_, tensor)| kind(tensor) != Kind::Float);
    let entry =
        |(name, tensor): &(String, Tensor)| Entry { name: name.clone(), shape: tensor.size(), kind: kind(tensor) };
    let mut writer = Writer::create(path, tensors.iter().map(entry).collect())?;
    tensors.iter().try_for_each(|(name, tensor)| writer.write(name, tensor))?;
    writer.finish()
}
