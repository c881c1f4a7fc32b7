//! Model folders made for a test, and what weight files hold.

use super::mistakes::{copy_folder, edit};
use super::runs::Bench;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A copy of the bench's model without its weights, its `config.json` changed.
pub fn without_weights(bench: &Bench, change: impl Fn(&mut Value)) -> PathBuf {
    let folder = bench.path("untrained");
    copy_folder(&bench.model, &folder);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    edit(&folder.join("config.json"), change);
    folder
}

/// A copy of the bench's model, in which one number of one f32 tensor is `value`.
pub fn spoilt(bench: &Bench, tensor: &str, element: usize, value: f32) -> PathBuf {
    let folder = bench.path("spoilt");
    copy_folder(&bench.model, &folder);
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let start = places(&bytes)[tensor].start + 4 * element;
    bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
    folder
}

/// The bytes of each tensor of a safetensors file.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    places(&bytes).into_iter().map(|(name, place)| (name, bytes[place].to_vec())).collect()
}

/// Where each tensor lies: the header's size in 8 bytes, the header, then the tensors.
fn places(bytes: &[u8]) -> BTreeMap<String, std::ops::Range<usize>> {
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
    let place = |tensor: &Value| {
        let at = |i: usize| data + tensor["data_offsets"][i].as_u64().unwrap() as usize;
        at(0)..at(1)
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, t)| (name.clone(), place(t))).collect()
}

/// The numbers of an f32 tensor.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
