//! Which files of the data are for training and for evaluation.

use crate::error::{Error, Result};
use crate::text::files::{Files, extension, has_known_extension, unknown_training_files};
use crate::text::survey::of_part;
use std::path::{Path, PathBuf};

/// Returns the training and the evaluation files.
///
/// # Errors
/// Exit 2: files of several formats, since only the first is looked at; files of no known format.
pub(super) fn parts(data: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    if data.is_file() && !has_known_extension(data) {
        return Err(unknown(data, &[data.to_owned()]));
    }
    let train = match data.is_dir() {
        true => of_part(data, "training")?,
        false => vec![data.to_owned()],
    };
    if train.is_empty() {
        let files = Files::find(&[data]);
        let others = if data.is_dir() { unknown_training_files(data)? } else { Vec::new() };
        return match files {
            Err(_) if !others.is_empty() => Err(unknown(data, &others)),
            files => Ok((files?.paths().to_vec(), Vec::new())),
        };
    }
    let eval: Vec<PathBuf> = of_part(data, "validation")?.into_iter().filter(|path| !train.contains(path)).collect();
    refuse_several_formats(data, &train, "training")?;
    refuse_several_formats(data, &eval, "validation")?;
    Ok((train, eval))
}

fn refuse_several_formats(data: &Path, files: &[PathBuf], part: &str) -> Result<()> {
    let Some((first, rest)) = files.split_first() else { return Ok(()) };
    let Some(other) = rest.iter().find(|path| extension(path) != extension(first)) else { return Ok(()) };
    Err(Error::input(format!(
        "{}: the folder has {part} files of several formats ({} and {}): give `trainer init` one file instead of the \
         folder, such as {}, or keep the files of one format there",
        data.display(),
        name(first),
        name(other),
        first.display()
    )))
}

/// The error for files whose extension says no format: that of line-aligned files is often their language.
fn unknown(data: &Path, files: &[PathBuf]) -> Error {
    let names: Vec<String> = files.iter().map(|path| name(path)).collect();
    Error::input(format!(
        "{}: trainer init does not know the format of {}: its extension is none of .jsonl, .csv, .tsv, .parquet, \
         .txt and so on; rename a file to what it is. For parallel text (line n of one file is the target of line n of \
         another) write the configuration yourself: task.kind = \"seq2seq\", data.train for the sources and \
         data.train_target for the targets (docs/configuration.md)",
        data.display(),
        names.join(", ")
    ))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(dir.path().join(name), "").unwrap());
        dir
    }

    fn refused(names: &[&str], file: &str) -> String {
        let dir = folder(names);
        parts(&dir.path().join(file)).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_of_several_formats_is_refused() {
        let message = refused(&["train.jsonl", "train.txt"], "");
        assert!(message.contains("training files of several formats (train.jsonl and train.txt): "), "{message}");
        let message = refused(&["train.jsonl", "dev.jsonl", "dev.txt"], "");
        assert!(message.contains("validation files of several formats (dev.jsonl and dev.txt): "), "{message}");
        let dir = folder(&["train-0.jsonl", "train-1.jsonl.gz", "train.txt", "dev.jsonl", "dev.txt"]);
        let (train, eval) = parts(&dir.path().join("train-0.jsonl")).unwrap();
        assert_eq!((train.len(), eval), (1, vec![dir.path().join("dev.jsonl")]));
        std::fs::remove_file(dir.path().join("train.txt")).unwrap();
        std::fs::remove_file(dir.path().join("dev.txt")).unwrap();
        assert_eq!(parts(dir.path()).unwrap().0.len(), 2, "compression is no format");
    }

    #[test]
    fn parallel_text_is_to_be_configured() {
        let names = ["train.de.gz", "train.en.gz", "val.en.gz"];
        let message = refused(&names, "");
        assert!(message.contains("the format of train.de.gz, train.en.gz: "), "{message}");
        let message = refused(&names, "train.en.gz");
        assert!(message.contains("the format of train.en.gz: ") && message.contains("data.train_target"), "{message}");
        assert!(!message.contains("set format"), "{message}");
        assert!(refused(&["a.bin"], "").contains("the folder has no data file"));
    }
}
