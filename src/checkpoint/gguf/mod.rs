//! Writes models as GGUF files, which llama.cpp reads (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! [`metadata`] is the part before the data, [`encoding`] the types of tensors. One tensor at a time is in memory.

pub mod encoding;
pub mod metadata;

use crate::checkpoint::new_file::NewFile;
use crate::checkpoint::weight_files::{Folders, Weights};
use crate::error::{Error, Result};
use crate::models::hf_names::HfNames;
use crate::models::llama_cpp::{GgufTensor, Source};
use encoding::Encoding;
use metadata::{ALIGNMENT, TensorInfo, Value};
use std::collections::BTreeSet;
use std::path::Path;
use tch::{Kind, Tensor};

/// A model folder to be written as a file.
pub struct Model<'a> {
    pub folder: &'a Path,
    /// The names of its tensors.
    pub names: &'a HfNames,
    pub keys: Vec<(String, Value)>,
    pub tensors: &'a [GgufTensor],
    /// The type of matrices and embedding tables.
    pub encoding: Encoding,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The size of the file.
    pub bytes: u64,
    /// The tensors of the folder that the file does not have.
    pub unused: Vec<String>,
}

/// Writes the file under a temporary name, tensor by tensor, and renames it when it is complete.
///
/// # Errors
/// Exit 2: a tensor that the folder lacks, that has another shape, or that the type cannot represent, by name. Otherwise
/// the system's error, such as a full disk.
pub fn write(path: &Path, model: &Model) -> Result<Written> {
    let weights = Weights::open(Folders::from(model.folder), model.names)?;
    let type_of = |tensor: &GgufTensor| if tensor.is_fp32 { Encoding::F32 } else { model.encoding };
    let mut infos = Vec::new();
    for tensor in model.tensors {
        let encoding = type_of(tensor);
        let bytes = encoding.bytes(&tensor.shape).map_err(|why| refused(tensor, &why))?;
        infos.push(TensorInfo { name: tensor.name.clone(), shape: tensor.shape.clone(), id: encoding.id(), bytes });
    }
    let head = metadata::head(&model.keys, &infos);
    let failed = |e: std::io::Error| Error::other(format!("{}: cannot be written: {e}", path.display()));
    let mut file = NewFile::create(path)?;
    file.write(&head).map_err(failed)?;
    let mut used = BTreeSet::new();
    let mut bytes = head.len() as u64;
    for (tensor, info) in model.tensors.iter().zip(&infos) {
        let values = values(&weights, model.names, tensor, &mut used)?;
        let mut data = type_of(tensor).encode(&values)?.map_err(|why| refused(tensor, &why))?;
        if data.len() as u64 != info.bytes {
            return Err(Error::other(format!("{}: {} bytes instead of {}", tensor.name, data.len(), info.bytes)));
        }
        data.resize(data.len().next_multiple_of(ALIGNMENT as usize), 0);
        file.write(&data).map_err(failed)?;
        bytes += data.len() as u64;
    }
    file.finish().map_err(failed)?;
    let unused = weights.tensors.keys().filter(|name| !used.contains(*name) && !HfNames::is_buffer(name));
    Ok(Written { bytes, unused: unused.cloned().collect() })
}

fn refused(tensor: &GgufTensor, why: &str) -> Error {
    let stored = match &tensor.source {
        Source::Stored { name, .. } => format!(" ({name})"),
        Source::Values(_) => String::new(),
    };
    Error::input(format!("tensor {}{stored}: {why}", tensor.name))
}

/// Returns a tensor's values in the order of the file, fp32. Adds the names under which the folder has it to `used`.
fn values(weights: &Weights, names: &HfNames, tensor: &GgufTensor, used: &mut BTreeSet<String>) -> Result<Tensor> {
    let (name, transposed, heads) = match &tensor.source {
        Source::Stored { name, transposed, rotated_heads } => (name, *transposed, *rotated_heads),
        Source::Values(values) => return Ok(Tensor::f_from_slice(values)?),
    };
    let _guard = tch::no_grad_guard();
    let aliases = names.params.iter().filter(|param| names.exported(param).contains(name));
    let aliases: Vec<&String> = aliases.flat_map(|param| &param.aliases).collect();
    let mut all = std::iter::once(name).chain(aliases).filter(|name| weights.tensors.contains_key(*name));
    let found = all.next().ok_or_else(|| refused(tensor, "the folder's weight files have no such tensor"))?;
    used.insert(found.clone());
    used.extend(all.cloned());
    let (file, spelling) = weights.at(found);
    let mut stored = tensor.shape.clone();
    if transposed {
        stored.reverse();
    }
    file.expect_shape(spelling, &stored)?;
    let values = file.read(spelling)?.f_to_kind(Kind::Float)?;
    let values = if transposed { values.tr() } else { values };
    let values = heads.map_or(values.shallow_clone(), |heads| neighbors(&values, heads));
    Ok(values.contiguous())
}

/// Changes the order of the rows of each head from halves (i and i + n / 2 are a pair) to neighbors (2 i and 2 i + 1).
fn neighbors(values: &Tensor, heads: i64) -> Tensor {
    let shape = values.size();
    let mut halves = vec![heads, 2, shape[0] / heads / 2];
    halves.extend(&shape[1..]);
    values.reshape(halves).transpose(1, 2).reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensor_writer::{Entry, Writer};
    use crate::models::hf_names::HfParam;
    use tch::Device;

    fn range(shape: &[i64]) -> Tensor {
        Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).reshape(shape)
    }

    fn folder(tensors: &[(&str, &[i64])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let entry = |(name, shape): &(&str, &[i64])| Entry {
            name: (*name).to_owned(),
            shape: shape.to_vec(),
            kind: Kind::Float,
        };
        let entries = tensors.iter().map(entry).collect();
        let mut file = Writer::create(&dir.path().join("model.safetensors"), entries).unwrap();
        tensors.iter().for_each(|(name, shape)| file.write(name, &range(shape)).unwrap());
        file.finish().unwrap();
        dir
    }

    fn names() -> HfNames {
        let params = vec![HfParam::new("words", ["words"]).also(&["head"]), HfParam::new("q", ["q"])];
        HfNames { prefix: "", headless: false, params, legacy: &[] }
    }

    fn numbers(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn data_follow_in_the_order_of_llama_cpp() {
        let dir =
            folder(&[("head", &[3, 2]), ("q", &[8, 1]), ("t", &[2, 3]), ("a.rotary_emb.inv_freq", &[2]), ("x", &[1])]);
        let tensors = [
            GgufTensor::matrix("token_embd.weight", "words", [3, 2]),
            GgufTensor::matrix("blk.0.attn_q.weight", "q", [8, 1]).rotated(2),
            GgufTensor::matrix("t", "t", [3, 2]).transposed(),
            GgufTensor { source: Source::Values(vec![0.5]), ..GgufTensor::vector("v", "v", 1) },
        ];
        let (path, names) = (dir.path().join("model.gguf"), names());
        let keys = vec![("general.architecture".to_owned(), Value::Text("llama".into()))];
        let model = Model { folder: dir.path(), names: &names, keys, tensors: &tensors, encoding: Encoding::F32 };
        let written = write(&path, &model).unwrap();
        assert_eq!(written.unused, ["x"], "a buffer does not matter, an alias is used");
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len() as u64, bytes.len() % 32), (written.bytes, 0));
        let data = &bytes[bytes.len() - 4 * 32..];
        assert_eq!(numbers(data)[..6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(numbers(&data[32..])[..8], [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(numbers(&data[64..])[..6], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(numbers(&data[96..])[..2], [0.5, 0.0]);
    }

    #[test]
    fn what_is_missing_or_not_representable_is_named_and_leaves_no_file() {
        let dir = folder(&[("q", &[2, 2])]);
        let (path, names) = (dir.path().join("model.gguf"), names());
        let message = |tensor: GgufTensor, encoding| {
            let tensors = [tensor];
            let model = Model { folder: dir.path(), names: &names, keys: Vec::new(), tensors: &tensors, encoding };
            write(&path, &model).unwrap_err().to_string()
        };
        let matrix = |stored: &str, shape| GgufTensor::matrix("blk.0", stored, shape);
        let absent = message(matrix("w", [2, 2]), Encoding::F32);
        assert_eq!(absent, "tensor blk.0 (w): the folder's weight files have no such tensor");
        assert!(message(matrix("q", [4, 1]), Encoding::F32).contains("its shape is [2, 2], the model's is [4, 1]"));
        assert!(message(matrix("q", [2, 2]), Encoding::Q8_0).contains("q8_0 has blocks of 32: use --type f16"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// `/dev/full` simulates a full disk.
    #[test]
    fn a_full_disk_is_reported_with_the_file() {
        let dir = folder(&[("q", &[2, 2])]);
        std::os::unix::fs::symlink("/dev/full", dir.path().join(".model.gguf.tmp")).unwrap();
        let (path, names) = (dir.path().join("model.gguf"), names());
        let tensors = [GgufTensor::matrix("blk.0", "q", [2, 2])];
        let model =
            Model { folder: dir.path(), names: &names, keys: Vec::new(), tensors: &tensors, encoding: Encoding::F16 };
        let message = write(&path, &model).unwrap_err().to_string();
        assert!(message.contains("model.gguf: cannot be written: No space left on device"), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
