//! Writing a safetensors file tensor by tensor (<https://github.com/huggingface/safetensors>, the format section).
//!
//! The header at the start needs only names, shapes and dtypes, so a sharded model can be written one unit at a time.

use crate::checkpoint::new_file::NewFile;
use crate::checkpoint::tensors::dtype;
use crate::error::{Error, Result};
use crate::ffi::transfer;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name, unique in the file.
    pub name: String,
    pub shape: Vec<i64>,
    /// Its dtype in the file: `Float`, `Half`, `BFloat16`, `Double` or `Int64`.
    pub kind: Kind,
}

impl Entry {
    /// Returns its bytes in the file.
    pub fn bytes(&self) -> u64 {
        let numel: i64 = self.shape.iter().product();
        numel as u64 * self.kind.elt_size_in_bytes() as u64
    }
}

/// A tensor in host memory, as it is written.
#[derive(Debug)]
pub struct Values {
    entry: Entry,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// It may share memory with the tensor that it was made of.
    Tensor(Tensor),
    Copy(Vec<u8>),
}

impl Values {
    /// Returns a tensor's values, cast to `kind`; they may share its memory.
    ///
    /// # Errors
    /// Out of memory.
    pub fn of(name: &str, tensor: &Tensor, kind: Kind) -> Result<Self> {
        let tensor = transfer::to_host(&tensor.detach())?.f_to_kind(kind)?;
        Ok(Values {
            entry: Entry { name: name.to_owned(), shape: tensor.size(), kind },
            memory: Memory::Tensor(tensor),
        })
    }

    /// Returns a tensor's values in memory of their own, so that the tensor may change. The copy does not count as
    /// memory of tensors.
    ///
    /// # Errors
    /// Out of memory.
    pub fn copy_of(name: &str, tensor: &Tensor, kind: Kind) -> Result<Self> {
        let shares = tensor.device() == Device::Cpu;
        let values = Values::of(name, tensor, kind)?;
        let memory = if shares { Memory::Copy(values.bytes().to_vec()) } else { values.memory };
        Ok(Values { memory, ..values })
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Tensor(tensor) => crate::ffi::bytes(tensor),
            Memory::Copy(bytes) => bytes,
        }
    }
}

/// A file being written. [`Writer::finish`] gives it its name; dropping the writer before removes it.
#[derive(Debug)]
pub struct Writer {
    file: NewFile,
    entries: Vec<Entry>,
    /// Number of entries written.
    done: usize,
}

impl Writer {
    /// Starts the file `path` with the header of `entries`, in the order of the tensors. The header contains
    /// `{"format": "pt"}`, which transformers requires.
    ///
    /// # Errors
    /// A duplicate name, a shape or dtype that the format does not support, a tensor that is not aligned to its element
    /// size (wider dtypes must come first, because readers map the file); system errors.
    pub fn create(path: &Path, entries: Vec<Entry>) -> Result<Self> {
        let header = header(&entries).map_err(|e| unwritable(path, e))?;
        let mut writer = Writer { file: NewFile::create(path)?, entries, done: 0 };
        let begun = writer.file.write(&(header.len() as u64).to_le_bytes());
        begun.and_then(|()| writer.file.write(&header)).map_err(|e| unwritable(path, e))?;
        Ok(writer)
    }

    /// Writes the next entry. `tensor` must have its name and shape; it can be on any device and is cast to the entry's
    /// dtype. The writer does not keep it.
    ///
    /// # Errors
    /// A name or shape that differs from the next entry; system errors.
    pub fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let kind = self.entries.get(self.done).map_or(tensor.kind(), |entry| entry.kind);
        self.write_values(&Values::of(name, tensor, kind)?)
    }

    /// Writes the next entry from host memory.
    ///
    /// # Errors
    /// As [`Writer::write`]; another dtype than the entry's.
    pub fn write_values(&mut self, values: &Values) -> Result<()> {
        let Entry { name, shape, kind } = &values.entry;
        let path = self.file.path().to_owned();
        let error = |e: &dyn Display| unwritable(&path, format!("tensor {name}: {e}"));
        let Some(entry) = self.entries.get(self.done) else { return Err(error(&"not in the header")) };
        if entry.name != *name {
            return Err(error(&format!("expected {}", entry.name)));
        }
        if entry.shape != *shape {
            return Err(error(&format!("the shape is {shape:?}, but {:?} in the header", entry.shape)));
        }
        if entry.kind != *kind {
            return Err(error(&format!("the dtype is {kind:?}, but {:?} in the header", entry.kind)));
        }
        self.file.write(values.bytes()).map_err(|e| error(&e))?;
        self.done += 1;
        Ok(())
    }

    /// Completes the file, as [`NewFile::finish`].
    ///
    /// # Errors
    /// An entry that was not written; system errors.
    pub fn finish(self) -> Result<()> {
        let path = self.file.path().to_owned();
        if let Some(entry) = self.entries.get(self.done) {
            return Err(unwritable(&path, format!("tensor {} is missing", entry.name)));
        }
        self.file.finish().map_err(|e| unwritable(&path, e))
    }
}

fn unwritable(path: &Path, e: impl Display) -> Error {
    Error::other(format!("{}: cannot be written: {e}", path.display()))
}

/// Returns the header as JSON, padded with spaces to a multiple of 8 bytes.
fn header(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut names = HashSet::new();
    let mut infos = Vec::with_capacity(entries.len());
    let mut end = 0;
    for Entry { name, shape, kind } in entries {
        let error = |e: &dyn Display| Error::other(format!("tensor {name}: {e}"));
        if name == "__metadata__" || !names.insert(name) {
            return Err(error(&"duplicate or reserved name"));
        }
        let dtype = dtype(*kind).ok_or_else(|| error(&format!("dtype {kind:?} is not supported")))?;
        let shape: Option<Vec<usize>> = shape.iter().map(|n| usize::try_from(*n).ok()).collect();
        let shape = shape.ok_or_else(|| error(&"a dimension is negative"))?;
        let width = kind.elt_size_in_bytes();
        if end % width != 0 {
            return Err(error(&format!(
                "starts at byte {end}, not a multiple of {width}: wider dtypes must come first"
            )));
        }
        let size = shape.iter().try_fold(width, |size, n| size.checked_mul(*n));
        let begin = end;
        end = size.and_then(|size| end.checked_add(size)).ok_or_else(|| error(&"too large"))?;
        infos.push((name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), infos).map_err(|e| Error::other(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensors::TensorFile;
    use safetensors::SafeTensors;
    use std::fs::{self, File};

    fn entry(name: &str, shape: &[i64], kind: Kind) -> Entry {
        Entry { name: name.to_owned(), shape: shape.to_vec(), kind }
    }

    fn floats(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| entry(name, &[2], Kind::Float)).collect()
    }

    fn ones() -> Tensor {
        Tensor::ones([2], (Kind::Float, Device::Cpu))
    }

    /// Asserts that the error message contains `part`, and that the folder is empty.
    #[track_caller]
    fn refused<T>(dir: &tempfile::TempDir, result: Result<T>, part: &str) {
        let message = result.err().expect("an error").to_string();
        assert!(message.contains("model.safetensors: cannot be written: "), "{message}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_kind_is_read_back_in_the_order_of_the_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let values = Tensor::from_slice(&[0.1f32, -2.5, 65504.0, 1e-7, 0.0, 3.0]).reshape([3, 2]);
        let sources = [
            ("z.double", values.to_kind(Kind::Double), Kind::Double),
            ("number", Tensor::from_slice(&[i64::MIN, 7]), Kind::Int64),
            ("empty.wide", Tensor::zeros([0, 4], (Kind::Int64, Device::Cpu)), Kind::Int64),
            // Written in logical order, not in memory order.
            ("transposed \"\u{e9}\"", values.tr(), Kind::Float),
            ("scalar", Tensor::from(1.5f32), Kind::Float),
            ("cast.half", values.shallow_clone(), Kind::Half),
            ("b16", values.to_kind(Kind::BFloat16), Kind::BFloat16),
            ("empty", Tensor::zeros([3, 0], (Kind::Half, Device::Cpu)), Kind::Half),
        ];
        let entries = sources.iter().map(|(name, tensor, kind)| entry(name, &tensor.size(), *kind)).collect();
        let mut writer = Writer::create(&path, entries).unwrap();
        for (name, tensor, _) in &sources {
            writer.write(name, tensor).unwrap();
        }
        assert!(!path.exists(), "an incomplete file has the final name");
        writer.finish().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let plain = dir.path().join("plain");
        File::create(&plain).unwrap();
        let [own, plain] = [&path, &plain].map(|path| fs::metadata(path).unwrap().permissions());
        assert_eq!(own, plain, "permissions according to the umask");

        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names(), sources.iter().map(|(name, ..)| name.to_string()).collect::<Vec<_>>());
        let bytes = fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor, kind) in &sources {
            let read = file.read(name).unwrap();
            assert_eq!((read.kind(), read.size()), (*kind, tensor.size()), "{name}");
            assert_eq!(read, tensor.to_kind(*kind), "{name}");
            let expected = tensor.to_kind(*kind).contiguous();
            let theirs = theirs.tensor(name).unwrap();
            assert_eq!(theirs.data(), crate::ffi::bytes(&expected), "{name}");
            assert_eq!(Some(theirs.dtype()), dtype(*kind), "{name}");
        }
        let (length, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!((length % 8, bytes[..8] == (length as u64).to_le_bytes()), (0, true));
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn tensors_must_match_the_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let begun = |names| Writer::create(&path, floats(names)).unwrap();
        let second = |name: &str, tensor: Tensor| {
            let mut writer = begun(&["a", "b"]);
            writer.write("a", &ones()).unwrap();
            writer.write(name, &tensor)
        };
        refused(&dir, second("a", ones()), "tensor a: expected b");
        let wide = Tensor::ones([2, 1], (Kind::Float, Device::Cpu));
        refused(&dir, second("b", wide), "tensor b: the shape is [2, 1], but [2] in the header");
        let late = { begun(&[]).write("a", &ones()) };
        refused(&dir, late, "tensor a: not in the header");
        refused(&dir, begun(&["a"]).finish(), "tensor a is missing");
    }

    #[test]
    fn invalid_headers_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let create = |entries| Writer::create(&path, entries);
        refused(&dir, create(floats(&["a", "a"])), "tensor a: duplicate or reserved name");
        refused(&dir, create(floats(&["__metadata__"])), "tensor __metadata__: duplicate or reserved name");
        refused(
            &dir,
            create(vec![entry("a", &[1], Kind::ComplexFloat)]),
            "tensor a: dtype ComplexFloat is not supported",
        );
        refused(&dir, create(vec![entry("a", &[-1], Kind::Float)]), "tensor a: a dimension is negative");
        refused(&dir, create(vec![entry("a", &[i64::MAX, 4], Kind::Float)]), "tensor a: too large");
        let odd = vec![entry("a", &[3], Kind::Half), entry("b", &[1], Kind::Float)];
        refused(&dir, create(odd), "tensor b: starts at byte 6, not a multiple of 4: wider dtypes must come first");
    }

    #[test]
    fn an_existing_file_stays_until_the_new_one_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let write = |whole: bool, value: f64| {
            let mut writer = Writer::create(&path, floats(&["a", "b"])).unwrap();
            writer.write("a", &(ones() * value)).unwrap();
            if whole {
                writer.write("b", &ones()).unwrap();
                writer.finish().unwrap();
            }
        };
        let value = || TensorFile::open(&path).unwrap().read("a").unwrap().double_value(&[0]);
        write(true, 1.0);
        write(false, 2.0);
        assert_eq!((value(), fs::read_dir(dir.path()).unwrap().count()), (1.0, 1));
        write(true, 3.0);
        assert_eq!((value(), fs::read_dir(dir.path()).unwrap().count()), (3.0, 1));
    }

    /// `/dev/full` simulates a full disk.
    #[test]
    fn a_full_disk_is_reported_with_file_and_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let begin = |size: i64| {
            std::os::unix::fs::symlink("/dev/full", dir.path().join(".model.safetensors.tmp")).unwrap();
            Writer::create(&path, vec![entry("a", &[size], Kind::Float)]).unwrap()
        };
        let large = Tensor::zeros([1 << 20], (Kind::Float, Device::Cpu));
        let full = { begin(1 << 20).write("a", &large) };
        refused(&dir, full, "tensor a: No space left on device");
        let mut small = begin(2);
        small.write("a", &ones()).unwrap();
        refused(&dir, small.finish(), "No space left on device");
    }
}
