//! Tensors in one safetensors file, or in several with an index, as transformers stores large models.
//!
//! Such a set is named by the path of its single file, `NAME.safetensors`. Several files are
//! `NAME-00001-of-00002.safetensors` and so on, and `NAME.safetensors.index.json` has the file of each tensor. A tensor
//! is never split over files.

use crate::checkpoint::folder::write_file;
use crate::checkpoint::tensor_writer::Entry;
use crate::checkpoint::tensors::{TensorFile, unwrapped};
use crate::error::{Context, Error, Result};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Returns the path of a set's index.
pub fn index_of(set: &Path) -> PathBuf {
    let mut path = set.as_os_str().to_owned();
    path.push(".index.json");
    path.into()
}

/// Returns the path of the file `index`, from 0, of a set of `count` files.
pub fn part_of(set: &Path, index: usize, count: usize) -> PathBuf {
    let stem = set.file_stem().unwrap_or_default().to_string_lossy();
    match count {
        1 => set.to_owned(),
        _ => set.with_file_name(format!("{stem}-{:05}-of-{count:05}.safetensors", index + 1)),
    }
}

/// Whether the set exists, with one file or several.
pub fn exists(set: &Path) -> bool {
    set.exists() || index_of(set).exists()
}

/// Returns the files of a set, none if it does not exist.
///
/// # Errors
/// Exit 2: an unreadable index.
pub fn files(set: &Path) -> Result<Vec<PathBuf>> {
    let index = index_of(set);
    match (set.exists(), index.exists()) {
        (true, _) => Ok(vec![set.to_owned()]),
        (false, true) => {
            let map = weight_map(&index)?;
            let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
            // A path in an index could lead anywhere.
            if let Some(name) = names.iter().find(|name| name.contains('/') || !set.with_file_name(name).exists()) {
                return Err(Error::input(format!(
                    "{}: {name} is not in the folder: was the download interrupted? Download this file too",
                    index.display()
                )));
            }
            Ok(names.into_iter().map(|name| set.with_file_name(name)).collect())
        }
        (false, false) => Ok(Vec::new()),
    }
}

/// Checks that each tensor of a set's index, if it has one, is in the file that the index names.
///
/// # Errors
/// Exit 2: an unreadable index, or one of other files.
pub fn check_index(set: &Path, files: &[(PathBuf, TensorFile)]) -> Result<()> {
    let index = index_of(set);
    if set.exists() || !index.exists() {
        return Ok(());
    }
    for (tensor, name) in weight_map(&index)? {
        let name = name.as_str().unwrap_or_default();
        let file = files.iter().find(|(path, _)| path.file_name().is_some_and(|file| file == name));
        if !file.is_some_and(|(_, file)| file.contains(&unwrapped(&tensor))) {
            return Err(Error::input(format!(
                "{}: {name} has no tensor {tensor}: the index is not that of these files: download all of them again",
                index.display()
            )));
        }
    }
    Ok(())
}

fn weight_map(index: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(index).input_context(index.display())?;
    let mut json: Value = serde_json::from_str(&text).input_context(index.display())?;
    match json.get_mut("weight_map").map(Value::take) {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(Error::input(format!("{}: no \"weight_map\"", index.display()))),
    }
}

/// The tensors of a set's files.
#[derive(Debug)]
pub struct TensorFiles {
    set: PathBuf,
    files: Vec<TensorFile>,
    /// The file of each tensor.
    places: HashMap<String, usize>,
}

impl TensorFiles {
    /// Opens all files of a set.
    ///
    /// # Errors
    /// Exit 2: no such file, an incomplete one, or a tensor of the index that its file lacks.
    pub fn open(set: &Path) -> Result<Self> {
        let mut paths = files(set)?;
        if paths.is_empty() {
            paths.push(set.to_owned());
        }
        let files =
            paths.into_iter().map(|path| Ok((path.clone(), TensorFile::open(&path)?))).collect::<Result<Vec<_>>>()?;
        check_index(set, &files)?;
        let files: Vec<TensorFile> = files.into_iter().map(|(_, file)| file).collect();
        let named = files.iter().enumerate().flat_map(|(i, file)| file.names().into_iter().map(move |name| (name, i)));
        let places: HashMap<String, usize> = named.collect();
        Ok(TensorFiles { set: set.to_owned(), files, places })
    }

    /// Whether a file contains this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns the file of a tensor.
    ///
    /// # Errors
    /// Exit 2 if no file has it.
    pub fn of(&self, name: &str) -> Result<&TensorFile> {
        let place = self.places.get(name).map(|&place| &self.files[place]);
        place.ok_or_else(|| Error::input(format!("{}: tensor {name}: the file has no such tensor", self.set.display())))
    }
}

/// Divides tensors among `writers`, balanced by bytes, and keeps their order; returns a list for each writer, which may
/// be empty. Every rank gets the same result.
pub fn divide(entries: Vec<Entry>, writers: usize) -> Vec<Vec<Entry>> {
    // The largest first, each to the writer with the fewest bytes so far.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| (Reverse(entries[i].bytes()), i));
    let mut bytes = vec![0; writers];
    let mut writer_of = vec![0; entries.len()];
    for i in order {
        let writer = (0..writers).min_by_key(|&writer| bytes[writer]).unwrap_or_default();
        bytes[writer] += entries[i].bytes();
        writer_of[i] = writer;
    }
    let mut lists = vec![Vec::new(); writers];
    for (entry, writer) in entries.into_iter().zip(writer_of) {
        lists[writer].push(entry);
    }
    lists
}

/// Writes the index of a set whose files have these tensors.
///
/// # Errors
/// The file name and the system error.
pub fn write_index(set: &Path, parts: &[&[Entry]]) -> Result<()> {
    let mut map = Map::new();
    for (i, part) in parts.iter().enumerate() {
        let path = part_of(set, i, parts.len());
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        map.extend(part.iter().map(|entry| (entry.name.clone(), Value::from(file.as_ref()))));
    }
    let size: u64 = parts.iter().copied().flatten().map(Entry::bytes).sum();
    let index = json!({"metadata": {"total_size": size}, "weight_map": map});
    write_file(&index_of(set), &serde_json::to_vec_pretty(&index)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensor_writer::Writer;
    use tch::{Device, Kind, Tensor};

    fn entry(name: &str, size: i64) -> Entry {
        Entry { name: name.to_owned(), shape: vec![size], kind: Kind::Float }
    }

    fn names(lists: &[Vec<Entry>]) -> Vec<Vec<&str>> {
        lists.iter().map(|list| list.iter().map(|entry| entry.name.as_str()).collect()).collect()
    }

    #[test]
    fn tensors_are_divided_by_bytes_and_keep_their_order() {
        let entries = || vec![entry("a", 3), entry("b", 10), entry("c", 4), entry("d", 4), entry("e", 1)];
        assert_eq!(names(&divide(entries(), 2)), [vec!["b", "e"], vec!["a", "c", "d"]]);
        assert_eq!(names(&divide(entries(), 1)), [vec!["a", "b", "c", "d", "e"]]);
        assert_eq!(names(&divide(vec![entry("a", 3)], 3)), [vec!["a"], vec![], vec![]]);
    }

    #[test]
    fn a_set_of_files_is_read_like_one() {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("model.safetensors");
        assert!(!exists(&set) && files(&set).unwrap().is_empty());
        let parts = divide(vec![entry("a", 3), entry("b", 2), entry("c", 1)], 2);
        for (i, part) in parts.iter().enumerate() {
            let mut writer = Writer::create(&part_of(&set, i, 2), part.clone()).unwrap();
            for entry in part {
                writer.write(&entry.name, &Tensor::full(&entry.shape, i as f64, (Kind::Float, Device::Cpu))).unwrap();
            }
            writer.finish().unwrap();
        }
        write_index(&set, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        let expected = [1, 2].map(|i| dir.path().join(format!("model-0000{i}-of-00002.safetensors")));
        assert!(exists(&set) && files(&set).unwrap() == expected);
        let index: Value = serde_json::from_slice(&std::fs::read(index_of(&set)).unwrap()).unwrap();
        assert_eq!(
            (&index["metadata"]["total_size"], &index["weight_map"]["c"]),
            (&json!(24), &json!("model-00002-of-00002.safetensors"))
        );
        let opened = TensorFiles::open(&set).unwrap();
        assert!(opened.contains("a") && !opened.contains("d"));
        assert_eq!(opened.of("c").unwrap().read("c").unwrap().double_value(&[0]), 1.0);
        let error = opened.of("d").unwrap_err().to_string();
        assert!(error.ends_with("model.safetensors: tensor d: the file has no such tensor"), "{error}");

        std::fs::rename(&expected[1], dir.path().join("elsewhere")).unwrap();
        let error = TensorFiles::open(&set).unwrap_err().to_string();
        assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
        let mut other = Writer::create(&expected[1], vec![entry("b", 2)]).unwrap();
        other.write("b", &Tensor::zeros([2], (Kind::Float, Device::Cpu))).unwrap();
        other.finish().unwrap();
        let error = TensorFiles::open(&set).unwrap_err().to_string();
        assert!(error.contains("index.json: model-00002-of-00002.safetensors has no tensor c: "), "{error}");
    }
}
