//! Which files of a folder have the weights of a model.

use crate::checkpoint::formats::bundle;
use crate::checkpoint::sharded;
use crate::error::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// The weights of a model folder: one file, or several with an index.
pub const WEIGHTS: &str = "model.safetensors";
/// The same, as `torch.save` wrote them.
const PICKLED: &str = "pytorch_model.bin";

/// The weight files of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WeightSet {
    pub files: Vec<PathBuf>,
    /// The name that an index is called after, of files that may have one.
    pub set: Option<PathBuf>,
}

impl WeightSet {
    /// Finds a folder's weights: safetensors before pickles, as transformers does, then a checkpoint of TensorFlow. None
    /// of them if the folder has no weights.
    ///
    /// # Errors
    /// Exit 2: an unreadable index, or missing files.
    pub fn of(folder: &Path) -> Result<Self> {
        for set in [WEIGHTS, PICKLED].map(|name| folder.join(name)) {
            if sharded::exists(&set) {
                return Ok(WeightSet { files: sharded::files(&set)?, set: Some(set) });
            }
            let files = without_index(folder, &set)?;
            if !files.is_empty() {
                return Ok(WeightSet { files, set: None });
            }
        }
        let is_checkpoint = |name: &String| name.ends_with(".index") && name.contains(".ckpt");
        match &names(folder)?.into_iter().filter(is_checkpoint).collect::<Vec<_>>()[..] {
            [] => Ok(WeightSet::default()),
            [index] => {
                let files = bundle::data_files(&folder.join(index))?;
                if let Some(missing) = files.iter().find(|file| !file.exists()) {
                    return Err(missing_file(&missing.display().to_string(), "the checkpoint"));
                }
                Ok(WeightSet { files, set: None })
            }
            [one, other, ..] => Err(Error::input(format!(
                "{}: several TensorFlow checkpoints, {one} and {other}: keep one of them there",
                folder.display()
            ))),
        }
    }

    /// The error for a folder without weights, which names what it has instead.
    pub fn none_in(folder: &Path) -> Error {
        /// Names of weights in formats that are not read, with what they are.
        const OTHERS: &[(&str, &str)] = &[
            (".gguf", "of llama.cpp, mostly quantized"),
            (".h5", "of Keras"),
            (".msgpack", "of Flax"),
            (".onnx", "of ONNX"),
            (".pth", "of the model's own code"),
            (".ot", "of rust-bert"),
            (".npz", "of NumPy"),
            (".safetensors", "under another name"),
            (".bin", "under another name"),
        ];
        let names = names(folder).unwrap_or_default();
        let other = OTHERS.iter().find_map(|(end, what)| {
            let name = names.iter().find(|name| name.ends_with(end) && !name.starts_with("training_args"))?;
            Some(format!("; {name} has weights {what}, which are not read"))
        });
        Error::input(format!(
            "{}: neither model.safetensors nor model.safetensors.index.json, {PICKLED}, {PICKLED}.index.json or \
             bert_model.ckpt.index{}: download them, or save the model there by save_pretrained(...) of transformers; to \
             train a new model from random weights, set model.init = \"random\"",
            folder.display(),
            other.unwrap_or_default()
        ))
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = folder.read_dir().input_context(folder.display())?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn missing_file(file: &str, of: &str) -> Error {
    Error::input(format!("{file}: this file of {of} is missing: was the download interrupted? Download it too"))
}

/// Returns the files `NAME-00001-of-00003.EXTENSION` and so on of a set whose index is missing.
fn without_index(folder: &Path, set: &Path) -> Result<Vec<PathBuf>> {
    let part = |name: &str| -> Option<(usize, usize)> {
        let [stem, extension] = [set.file_stem()?, set.extension()?].map(|part| part.to_string_lossy());
        let numbers = name.strip_prefix(&*stem)?.strip_prefix('-')?.strip_suffix(&*extension)?.strip_suffix('.')?;
        let (number, count) = numbers.split_once("-of-")?;
        Some((number.parse().ok()?, count.parse().ok()?))
    };
    let mut parts: Vec<(usize, usize, String)> =
        names(folder)?.into_iter().filter_map(|name| part(&name).map(|(i, n)| (i, n, name))).collect();
    parts.sort();
    let Some(&(_, count, _)) = parts.first() else { return Ok(Vec::new()) };
    let index = sharded::index_of(set);
    if parts.iter().any(|part| part.1 != count) {
        return Err(missing_file(&index.display().to_string(), "weights in several files"));
    }
    // So many files would not be there.
    if parts.len() != count || parts.iter().enumerate().any(|(i, part)| part.0 != i + 1) {
        let absent = (1..=parts.len() + 1).find(|i| parts.iter().all(|part| part.0 != *i)).unwrap_or_default();
        let name = parts[0].2.replacen(&format!("{:05}", parts[0].0), &format!("{absent:05}"), 1);
        return Err(missing_file(&folder.join(name).display().to_string(), "the model"));
    }
    Ok(parts.into_iter().map(|(.., name)| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|name| fs::write(dir.path().join(name), b"").unwrap());
        dir
    }

    fn found(files: &[&str]) -> Result<Vec<String>, String> {
        let dir = folder(files);
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let set = WeightSet::of(dir.path()).map_err(|e| e.to_string())?;
        Ok(set.files.iter().map(name).collect())
    }

    #[test]
    fn safetensors_come_before_pickles() {
        assert_eq!(found(&["model.safetensors", "pytorch_model.bin"]).unwrap(), ["model.safetensors"]);
        assert_eq!(found(&["consolidated.safetensors", "pytorch_model.bin"]).unwrap(), ["pytorch_model.bin"]);
        assert!(found(&["training_args.bin", "optimizer.bin"]).unwrap().is_empty());
    }

    #[test]
    fn parts_without_an_index_are_read_if_they_are_complete() {
        let [one, two, three] = [1, 2, 3].map(|i| format!("model-0000{i}-of-00003.safetensors"));
        assert_eq!(found(&[&three, &one, &two]).unwrap(), [&*one, &two, &three]);
        for absent in [&one, &two, &three] {
            let rest: Vec<&str> =
                [&one, &two, &three].into_iter().filter(|name| *name != absent).map(|s| &**s).collect();
            let message = found(&rest).unwrap_err();
            assert!(message.contains(&format!("/{absent}: ")) && message.contains("Download"), "{message}");
        }
        let message = found(&[&one, "model-00001-of-00002.safetensors"]).unwrap_err();
        assert!(message.contains("model.safetensors.index.json: "), "{message}");
    }

    #[test]
    fn what_is_there_instead_is_named() {
        let message = |files: &[&str]| WeightSet::none_in(folder(files).path()).to_string();
        assert!(message(&["a-Q4_K.gguf"]).contains("; a-Q4_K.gguf has weights of llama.cpp, mostly quantized"));
        assert!(message(&["tf_model.h5"]).contains("; tf_model.h5 has weights of Keras"));
        assert!(message(&["model.fp16.safetensors"]).contains("model.fp16.safetensors has weights under another name"));
        assert!(message(&["training_args.bin"]).contains("bert_model.ckpt.index: download them"));
        assert!(message(&[]).ends_with("set model.init = \"random\""));
    }
}
