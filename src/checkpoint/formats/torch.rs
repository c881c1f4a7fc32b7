//! The files of `torch.save`: a ZIP archive with a pickle and one file for each storage (since PyTorch 1.6), or pickles
//! followed by the storages (before). Formats: `torch/serialization.py`.

use crate::checkpoint::formats::bytes::{Cursor, FileBytes};
use crate::checkpoint::formats::pickle::{Pickle, Refusal, Storage, Value, text_of};
use crate::checkpoint::formats::stored::Stored;
use crate::checkpoint::formats::zip;
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// The start of the format before PyTorch 1.6: the pickle of a number.
pub const LEGACY_START: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Finds the tensors of a state dict, in its order.
///
/// # Errors
/// Exit 2: a damaged file, or one with anything but a dict of tensors; what it is is named, and nothing is executed.
pub fn tensors(file: &FileBytes) -> Result<Vec<(String, Stored)>> {
    let start = file.get(0..file.length().min(LEGACY_START.len()))?;
    if start.starts_with(zip::START) { of_archive(file) } else { of_legacy(file) }
}

/// Whether a file that begins with these bytes is one of `torch.save`.
pub fn is_torch(start: &[u8]) -> bool {
    start.starts_with(zip::START) || start.starts_with(LEGACY_START)
}

fn of_archive(file: &FileBytes) -> Result<Vec<(String, Stored)>> {
    let entries: HashMap<String, Range<usize>> =
        zip::entries(file)?.into_iter().map(|entry| (entry.name, entry.data)).collect();
    // All names begin with that of the archive.
    let pickles = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
    let Some(archive) = pickles.min_by_key(|name| name.len()) else {
        return Err(file.refused("a ZIP archive without data.pkl: torch.save did not write it"));
    };
    if let Some(place) = entries.get(&format!("{archive}/byteorder"))
        && *file.get(place.clone())? != *b"little"
    {
        return Err(big_endian(file));
    }
    let bytes = file.get(entries[&format!("{archive}/data.pkl")].clone())?;
    let mut pickle = Pickle::default();
    let (root, _) = pickle.read(&bytes, 0).map_err(|why| error(file, why))?;
    let place = |storage: &Storage| {
        entries.get(&format!("{archive}/data/{}", text_of(&bytes, storage.key).unwrap_or_default())).cloned()
    };
    dict_of_tensors(file, &pickle, &bytes, root, &place)
}

fn of_legacy(file: &FileBytes) -> Result<Vec<(String, Stored)>> {
    if !file.get(0..file.length().min(LEGACY_START.len()))?.starts_with(LEGACY_START) {
        return Err(file.damaged("it does not begin as what torch.save writes"));
    }
    let bytes = file.get(0..file.length())?;
    let mut pickle = Pickle::default();
    let mut read = |at: usize| pickle.read(&bytes, at).map_err(|why| error(file, why));
    // The version, facts about the system, the state dict, and the keys of the storages.
    let (_, at) = read(LEGACY_START.len())?;
    let (system, at) = read(at)?;
    let (root, at) = read(at)?;
    let (keys, at) = read(at)?;
    if let Value::Dict(system) = system
        && let Some((_, Value::Bool(false))) =
            pickle.dicts[system].iter().find(|(key, _)| text_of(&bytes, *key) == Some("little_endian"))
    {
        return Err(big_endian(file));
    }
    let Value::List(keys) = keys else { return Err(file.damaged("no list of storages")) };
    let key_of = |storage: &Storage| text_of(&bytes, storage.key).unwrap_or_default();
    let widths: HashMap<&str, usize> =
        pickle.storages.iter().map(|storage| (key_of(storage), storage.dtype.bitsize() / 8)).collect();
    let mut at = Cursor::new(&bytes, at);
    let mut places = HashMap::new();
    for &key in &pickle.lists[keys] {
        let key = text_of(&bytes, key).ok_or_else(|| file.damaged("a storage without a name"))?;
        let width = widths.get(key).ok_or_else(|| file.damaged(format!("storage {key} is of no tensor")))?;
        let data = at.length(8).and_then(|size| size.checked_mul(*width)).and_then(|length| {
            let start = at.at;
            at.take(length).map(|_| start..start + length)
        });
        places.insert(key, data.ok_or_else(|| file.damaged("a storage is not complete"))?);
    }
    dict_of_tensors(file, &pickle, &bytes, root, &|storage| places.get(key_of(storage)).cloned())
}

/// Returns the tensors of the dict `root`; `place` finds the bytes of a storage.
fn dict_of_tensors(
    file: &FileBytes,
    pickle: &Pickle,
    bytes: &[u8],
    root: Value,
    place: &dyn Fn(&Storage) -> Option<Range<usize>>,
) -> Result<Vec<(String, Stored)>> {
    const REMEDY: &str = "save only the weights: torch.save(model.state_dict(), ...), or model.save_pretrained(...)";
    let Value::Dict(root) = root else { return Err(file.refused(format!("it has no dict of tensors: {REMEDY}"))) };
    let mut tensors = Vec::new();
    let mut known = HashSet::new();
    for &(key, value) in &pickle.dicts[root] {
        let name = text_of(bytes, key).ok_or_else(|| file.refused(format!("a name that is no text: {REMEDY}")))?;
        if !known.insert(name) {
            return Err(file.damaged(format!("two tensors {name}")));
        }
        let view = match value {
            Value::Tensor(tensor) => &pickle.tensors[tensor],
            // Numbers beside the weights, such as a step.
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Other | Value::Text(..) => continue,
            _ => return Err(file.refused(format!("{name} is not a tensor but has others in it: {REMEDY}"))),
        };
        let damaged = |why: &str| file.damaged(format!("tensor {name}: {why}"));
        let storage = &pickle.storages[view.storage];
        let place = place(storage).ok_or_else(|| damaged("its storage is missing"))?;
        let length = storage.size.checked_mul(storage.dtype.bitsize() / 8).filter(|&length| length <= place.len());
        let place = length.map(|length| place.start..place.start + length);
        let place = place.ok_or_else(|| damaged("its storage is not complete"))?;
        let stored = Stored::new(storage.dtype, view.shape.clone(), view.strides.clone(), &place, view.offset);
        tensors.push((name.to_owned(), stored.ok_or_else(|| damaged("it is not within its storage"))?));
    }
    Ok(tensors)
}

fn big_endian(file: &FileBytes) -> Error {
    file.refused("written on a big-endian machine: load and save it again in PyTorch")
}

fn error(file: &FileBytes, why: Refusal) -> Error {
    match why {
        Refusal::Damaged(why) => file.damaged(why),
        Refusal::Unknown(what) => file.refused(format!(
            "this pickle has {what}, which no dict of tensors has: nothing of it was executed. If you trust the file, \
             load it in PyTorch and save model.state_dict(), or a safetensors file"
        )),
    }
}

#[cfg(test)]
mod tests;
