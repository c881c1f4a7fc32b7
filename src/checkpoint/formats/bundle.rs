//! TensorFlow checkpoints of BERT: `NAME.index`, a table of `BundleEntryProto`s, and `NAME.data-00000-of-00001`
//! (`tensorflow/core/protobuf/tensor_bundle.proto`), under the names of Google's code for BERT.

use crate::checkpoint::formats::bytes::FileBytes;
use crate::checkpoint::formats::stored::Stored;
use crate::checkpoint::formats::table::{self, Field};
use crate::error::{Error, Result};
use safetensors::tensor::Dtype;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Between the name of a checkpoint and the number of a data file.
const DATA: &str = ".data-";

/// A tensor of the index.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    shard: u64,
    offset: usize,
    size: usize,
}

/// Whether this is the path of a data file.
pub fn is_data(path: &Path) -> bool {
    parts(path).is_some()
}

/// Returns the path of the index, and the number of the data file.
fn parts(path: &Path) -> Option<(PathBuf, u64)> {
    let name = path.file_name()?.to_str()?;
    let (checkpoint, numbers) = name.rsplit_once(DATA)?;
    let number = numbers.split_once("-of-")?.0.parse().ok()?;
    Some((path.with_file_name(format!("{checkpoint}.index")), number))
}

/// Returns the data files of a checkpoint with tensors.
///
/// # Errors
/// Exit 2: a damaged index.
pub fn data_files(index: &Path) -> Result<Vec<PathBuf>> {
    let file = FileBytes::open(index)?;
    let (entries, count) = entries(&file)?;
    let shards: BTreeSet<u64> = entries.iter().map(|entry| entry.shard).collect();
    let checkpoint = index.with_extension("");
    let path = |shard: u64| PathBuf::from(format!("{}{DATA}{shard:05}-of-{count:05}", checkpoint.display()));
    Ok(shards.into_iter().map(path).collect())
}

/// Finds the tensors of a data file, by the names of transformers' `BertFor...`, with matrices transposed as there.
/// Optimizer state is left out.
///
/// # Errors
/// Exit 2: no index, a damaged one, or a checkpoint of something else.
pub fn tensors(data: &FileBytes) -> Result<Vec<(String, Stored)>> {
    let Some((index, shard)) = parts(data.path()) else { return Err(data.refused("not the data of a checkpoint")) };
    let index = FileBytes::open(&index)?;
    let mut tensors = Vec::new();
    for entry in entries(&index)?.0.into_iter().filter(|entry| entry.shard == shard) {
        let Some((name, is_transposed)) = bert_name(&entry.name) else { continue };
        let end = entry.offset.checked_add(entry.size).filter(|&end| end <= data.length());
        let missing = || data.damaged(format!("{} is not complete", entry.name));
        let stored = Stored::whole(entry.dtype, entry.shape, &(entry.offset..end.ok_or_else(missing)?));
        let stored = stored.ok_or_else(|| damaged(&index, &entry.name))?;
        tensors.push((name, if is_transposed { stored.transposed() } else { stored }));
    }
    if tensors.is_empty() {
        return Err(index.refused(
            "no tensor bert/...: only checkpoints of Google's BERT are read; save others in transformers' format",
        ));
    }
    Ok(tensors)
}

/// Reads the index: the tensors of a supported dtype, and the number of data files.
fn entries(index: &FileBytes) -> Result<(Vec<Entry>, u64)> {
    let mut entries = Vec::new();
    let mut count = 1;
    for (key, value) in table::read(index)? {
        let name = String::from_utf8_lossy(&key).into_owned();
        let fields = table::fields(&value).ok_or_else(|| damaged(index, &name))?;
        if key.is_empty() {
            // BundleHeaderProto
            let number = |of: u64| fields.iter().rev().find_map(|field| number(field, of)).unwrap_or_default();
            if number(2) != 0 {
                return Err(index.refused("written on a big-endian machine: save it again on another"));
            }
            count = number(1);
        } else {
            entries.extend(entry(index, name, &fields)?);
        }
    }
    Ok((entries, count))
}

/// Returns the number in a field `of` this one.
fn number(field: &(u64, Field), of: u64) -> Option<u64> {
    match field {
        (id, Field::Number(number)) if *id == of => Some(*number),
        _ => None,
    }
}

/// Reads a `BundleEntryProto`; `None` for a dtype that no weight has, such as texts.
fn entry(index: &FileBytes, name: String, fields: &[(u64, Field)]) -> Result<Option<Entry>> {
    let damaged = || damaged(index, &name);
    let value = |of: u64| fields.iter().rev().find_map(|field| number(field, of)).unwrap_or_default();
    let dtype = match value(1) {
        1 => Dtype::F32,
        2 => Dtype::F64,
        3 => Dtype::I32,
        4 => Dtype::U8,
        5 => Dtype::I16,
        6 => Dtype::I8,
        9 => Dtype::I64,
        10 => Dtype::BOOL,
        14 => Dtype::BF16,
        19 => Dtype::F16,
        _ => return Ok(None),
    };
    if fields.iter().any(|(id, _)| *id == 7) {
        return Err(index.refused(format!("{name} is divided into slices: save the checkpoint without partitions")));
    }
    let mut shape = Vec::new();
    for (_, field) in fields.iter().filter(|(id, _)| *id == 2) {
        let Field::Bytes(dims) = field else { return Err(damaged()) };
        for (id, dim) in table::fields(dims).ok_or_else(damaged)? {
            if let (2, Field::Bytes(dim)) = (id, dim) {
                let dim = table::fields(dim).ok_or_else(damaged)?;
                let size = dim.iter().find_map(|field| number(field, 1)).unwrap_or_default();
                shape.push(usize::try_from(size).map_err(|_| damaged())?);
            }
        }
    }
    let place = |of: u64| usize::try_from(value(of)).map_err(|_| damaged());
    let (offset, size) = (place(4)?, place(5)?);
    Ok(Some(Entry { name, dtype, shape, shard: value(3), offset, size }))
}

fn damaged(index: &FileBytes, name: &str) -> Error {
    index.damaged(format!("the entry of {name} is damaged"))
}

/// Returns the name of a variable in transformers, and whether it is a matrix that is stored transposed there; `None`
/// for optimizer state and the step.
fn bert_name(variable: &str) -> Option<(String, bool)> {
    let parts: Vec<&str> = variable.split('/').collect();
    match parts[..] {
        ["output_weights"] => return Some(("classifier.weight".into(), false)),
        ["output_bias"] => return Some(("classifier.bias".into(), false)),
        ["cls", "squad", kind] => {
            return Some((format!("qa_outputs.{}", kind.strip_prefix("output_").map(one)?), false));
        }
        ["bert" | "cls", ..] => {}
        _ => return None,
    }
    let (last, modules) = parts.split_last()?;
    if last.contains("adam") || last.contains("Adam") {
        return None;
    }
    let mut name: Vec<String> = modules.iter().map(|module| module.replace("layer_", "layer.")).collect();
    let mut is_transposed = false;
    match *last {
        "kernel" => {
            is_transposed = true;
            name.push("weight".into());
        }
        "gamma" => name.push("weight".into()),
        "beta" | "bias" => name.push("bias".into()),
        "output_weights" | "output_bias" => name.push(one(&last["output_".len()..]).into()),
        embeddings if embeddings.ends_with("_embeddings") => name.push(format!("{embeddings}.weight")),
        _ => return None,
    }
    Some((name.join("."), is_transposed))
}

/// `weights` as one weight.
fn one(kind: &str) -> &str {
    if kind == "weights" { "weight" } else { kind }
}
