//! Weight files and their tensors: safetensors (<https://github.com/huggingface/safetensors>, the format section) and
//! the other [formats](crate::checkpoint::formats).

use crate::checkpoint::formats::bytes::FileBytes;
use crate::checkpoint::formats::stored::Stored;
use crate::checkpoint::formats::{bundle, torch};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// An open weight file and the places of its tensors.
#[derive(Debug)]
pub struct TensorFile {
    file: FileBytes,
    /// In file order.
    tensors: Vec<(String, Stored)>,
    /// The number of each tensor, by name.
    index: HashMap<String, usize>,
}

/// Modules that wrap a model while it is trained, whose names are in the names of its tensors: of `torch.compile`, FSDP
/// and activation checkpointing.
const WRAPPERS: &[&str] = &["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// The same of `DistributedDataParallel` and DeepSpeed, only around the whole model.
const OUTERMOST: &str = "module.";

/// Returns a tensor's name without the modules that wrapped the model.
pub(super) fn unwrapped(name: &str) -> String {
    let mut name = WRAPPERS.iter().fold(name.to_owned(), |name, wrapper| name.replace(wrapper, ""));
    while let Some(inner) = name.strip_prefix(OUTERMOST) {
        name = inner.to_owned();
    }
    name
}

impl TensorFile {
    /// Opens a weight file and checks its header against its size. What it is follows from its content, for
    /// TensorFlow's data files from the name. Wrappers such as `module.` and `_orig_mod.` are removed from names.
    ///
    /// # Errors
    /// Exit 2: no such file, a truncated or damaged one, or a pickle with something else than tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let file = FileBytes::open(path)?;
        let is_pickle = torch::is_torch(&file.get(0..file.length().min(16))?);
        let tensors = match path.extension().and_then(|extension| extension.to_str()) {
            _ if bundle::is_data(path) => bundle::tensors(&file)?,
            _ if is_pickle => torch::tensors(&file)?,
            Some("bin" | "pt" | "pth") => torch::tensors(&file)?,
            _ => safetensors(&file)?,
        };
        let tensors: Vec<(String, Stored)> =
            tensors.into_iter().map(|(name, stored)| (unwrapped(&name), stored)).collect();
        let mut index = HashMap::new();
        for (i, (name, _)) in tensors.iter().enumerate() {
            if index.insert(name.clone(), i).is_some() {
                return Err(file.refused(format!(
                    "two tensors {name}, once within a wrapper such as {OUTERMOST} or {}: keep one of them",
                    WRAPPERS[0]
                )));
            }
        }
        Ok(TensorFile { file, tensors, index })
    }

    /// Returns the tensor names in file order.
    pub fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Returns the shape of a tensor.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.info(name)?.shape.iter().map(|&n| n as i64).collect())
    }

    /// Returns the name of a tensor's dtype in the safetensors format, also of one that libtorch does not support.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor.
    pub fn dtype_name(&self, name: &str) -> Result<String> {
        Ok(format!("{:?}", self.info(name)?.dtype))
    }

    /// Reads a tensor to the CPU, with its dtype in the file.
    ///
    /// # Errors
    /// Exit 2 if the file has no such tensor, or libtorch does not support its dtype.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let (kind, shape, stored) = (self.kind(name)?, self.shape(name)?, self.info(name)?);
        let (bytes, _) = stored.elements(&self.file, 0..stored.count())?;
        if bytes.is_empty() {
            return Ok(Tensor::f_zeros(shape, (kind, Device::Cpu))?);
        }
        Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?)
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
    /// copied unless they lie otherwise in the file: `body` must neither change nor keep the tensor. Afterwards their
    /// pages no longer count as memory of this process.
    ///
    /// # Errors
    /// Those of [`TensorFile::kind`], and of `body`.
    pub(super) fn with<T>(&self, name: &str, range: &Range<i64>, body: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let (kind, stored) = (self.kind(name)?, self.info(name)?);
        let (bytes, place) = stored.elements(&self.file, range.start as usize..range.end as usize)?;
        if bytes.is_empty() {
            return body(&Tensor::f_zeros([0], (kind, Device::Cpu))?);
        }
        let size = [range.end - range.start];
        let is_aligned = bytes.as_ptr().align_offset(kind.elt_size_in_bytes()) == 0;
        let values = if is_aligned {
            // SAFETY: the slice has `size` aligned elements of any bits, which live until `bytes` is dropped below and
            // are only read: callers are in this module's parent, and keep to the documentation above.
            unsafe { Tensor::f_from_blob(bytes.as_ptr(), &size, &[1], kind, Device::Cpu) }?
        } else {
            // Files that other programs have written may lack the padding after the header.
            Tensor::f_from_data_size(&bytes, &size, kind)?
        };
        let result = body(&values);
        drop(values);
        drop(bytes);
        self.file.release(place);
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
        let stored = self.info(name)?;
        hasher.update(format!("{:?} {:?};", stored.dtype, stored.shape).as_bytes());
        let (stride, block) = (STRIDE / stored.width(), BLOCK / stored.width());
        let last = stored.count().saturating_sub(block);
        for start in (0..stored.count()).step_by(stride).filter(|&start| start < last).chain([last]) {
            let (bytes, place) = stored.elements(&self.file, start..stored.count().min(start + block))?;
            hasher.update(&bytes);
            self.file.release(place);
        }
        Ok(())
    }

    /// Whether two tensors, of this file and of another, have the same dtype, shape and bytes.
    ///
    /// # Errors
    /// Exit 2 if a file has no such tensor.
    pub(super) fn equals(&self, name: &str, other: &TensorFile, its_name: &str) -> Result<bool> {
        const PIECE: usize = 4 << 20;
        let (mine, its) = (self.info(name)?, other.info(its_name)?);
        if mine.dtype != its.dtype || mine.shape != its.shape {
            return Ok(false);
        }
        for start in (0..mine.count()).step_by(PIECE) {
            let range = start..mine.count().min(start + PIECE);
            let (a, a_place) = mine.elements(&self.file, range.clone())?;
            let (b, b_place) = its.elements(&other.file, range)?;
            let same = a == b;
            self.file.release(a_place);
            other.file.release(b_place);
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
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
        self.index.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<&Stored> {
        let number = self.index.get(name).ok_or_else(|| self.error(name, "the file has no such tensor"))?;
        Ok(&self.tensors[*number].1)
    }

    pub(super) fn error(&self, name: &str, e: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: tensor {name}: {e}", self.file.path().display()))
    }
}

/// Finds the tensors of a safetensors file, in file order.
fn safetensors(file: &FileBytes) -> Result<Vec<(String, Stored)>> {
    /// The largest header that the format allows.
    const MAX_HEADER: u64 = 100_000_000;
    let damaged = |why: String| {
        Error::input(format!(
            "{}: not a complete safetensors file ({why}); it has {} bytes: was the download or the copy interrupted? \
             Download it again",
            file.path().display(),
            file.length()
        ))
    };
    const WIDTH: usize = size_of::<u64>();
    let length: Cow<[u8]> = file.get(0..WIDTH).map_err(|_| damaged("no header".into()))?;
    let length = u64::from_le_bytes(std::array::from_fn(|i| length[i]));
    let start = (length <= MAX_HEADER).then(|| WIDTH + length as usize).filter(|&start| start <= file.length());
    let start = start.ok_or_else(|| damaged(format!("its header has {length} bytes")))?;
    let header: Metadata = serde_json::from_slice(&file.get(WIDTH..start)?).map_err(|e| damaged(e.to_string()))?;
    if start.checked_add(header.data_len()) != Some(file.length()) {
        return Err(damaged(format!("its tensors have {} bytes after a header of {length}", header.data_len())));
    }
    let place = |name: String| {
        let Some(info) = header.info(&name) else { return Err(damaged(format!("no tensor {name}"))) };
        if info.dtype.bitsize() < 8 {
            let why = "packed by quantization: use the folder of the model that is not quantized";
            return Err(file.refused(format!("tensor {name} is {:?}, {why}", info.dtype)));
        }
        let (begin, end) = info.data_offsets;
        let stored = Stored::whole(info.dtype, info.shape.clone(), &(start + begin..start + end));
        Ok((name.clone(), stored.ok_or_else(|| damaged(format!("tensor {name}")))?))
    };
    header.offset_keys().into_iter().map(place).collect()
}

const KINDS: &[(Kind, Dtype)] = &[
    (Kind::Double, Dtype::F64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int16, Dtype::I16),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

/// Returns the dtype in the format; `None` if it is not supported.
pub(super) fn dtype(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(ours, _)| *ours == kind).map(|(_, dtype)| *dtype)
}
