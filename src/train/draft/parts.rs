//! Which files of the data are for training and for evaluation.

use super::parallel::{Set, paired, stem_and_side};
use crate::error::{Error, Result};
use crate::text::files::{Files, extension, folder_of, has_known_extension, unknown_files};
use crate::text::survey::of_part;
use std::path::{Path, PathBuf};

/// The files of a data set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub train: Set,
    /// Without files, evaluation data is to be held out of the training data.
    pub eval: Set,
    /// Files that are evaluation data by their names, but not in the form of the training data.
    pub left_out: Vec<PathBuf>,
}

impl Parts {
    fn of(train: Vec<PathBuf>, eval: Vec<PathBuf>) -> Self {
        let [train, eval] = [train, eval].map(|files| Set { files, targets: Vec::new() });
        Parts { train, eval, left_out: Vec::new() }
    }

    /// Returns what the user is told about files that are left out.
    pub fn remark(&self) -> Option<String> {
        let names: Vec<String> = self.left_out.iter().map(|path| path.display().to_string()).collect();
        let (are, they_are) = match names.as_slice() {
            [] => return None,
            [_] => ("is", "it is"),
            _ => ("are", "they are"),
        };
        let (names, train) = (names.join(", "), self.train.files[0].display());
        Some(format!("{names} {are} left out of the evaluation data: {they_are} not in the form of {train}"))
    }
}

/// Returns the files for training and for evaluation. The latter may be of another format; beside a file, only if none
/// is of its format.
///
/// # Errors
/// Exit 2: files of several formats, since only the first is looked at; files of no known format.
pub(super) fn parts(data: &Path) -> Result<Parts> {
    if data.is_file() && !has_known_extension(data) {
        return parallel_to(data)?.ok_or_else(|| unknown(data, &[data.to_owned()]));
    }
    let train = match data.is_dir() {
        true => of_part(data, "training")?,
        false => vec![data.to_owned()],
    };
    if train.is_empty() {
        return unnamed(data);
    }
    let eval: Vec<PathBuf> = of_part(data, "validation")?.into_iter().filter(|path| !train.contains(path)).collect();
    refuse_several_formats(data, &train, "training")?;
    refuse_several_formats(data, &eval, "validation")?;
    let mut parts = Parts::of(train, eval);
    if parts.eval.files.is_empty() && data.is_file() {
        parts.eval.files = of_part(folder_of(data), "validation")?;
        parts.eval.files.retain(|path| path.file_name() != data.file_name());
    }
    Ok(parts)
}

/// Returns the parts of a folder without training files of a known format: parallel text, or all files.
fn unnamed(folder: &Path) -> Result<Parts> {
    let files = Files::find(&[folder]);
    let others = listed(folder, Some("training"))?;
    let mut train = paired(&others, None);
    if others.is_empty() && files.is_err() {
        train = paired(&listed(folder, None)?, None);
    }
    match (train, files) {
        (Some(train), _) => parallel(folder, train),
        (None, Err(_)) if !others.is_empty() => Err(unknown(folder, &others)),
        (None, files) => Ok(Parts::of(files?.paths().to_vec(), Vec::new())),
    }
}

/// Returns the parts of parallel text whose sources are in a file, if there is one file of targets beside it.
fn parallel_to(sources: &Path) -> Result<Option<Parts>> {
    let Some((stem, side)) = stem_and_side(sources) else { return Ok(None) };
    let folder = folder_of(sources);
    let mut files = Vec::new();
    for part in [None, Some("training"), Some("validation"), Some("test")] {
        files.append(&mut listed(folder, part)?);
    }
    let stem = below(&stem);
    files.retain(|path| stem_and_side(path).is_some_and(|(other, _)| other == stem));
    paired(&files, Some(&side)).map(|train| parallel(folder, train)).transpose()
}

/// Returns the parts of parallel text in a folder. Evaluation files are those in the languages of the training files.
fn parallel(folder: &Path, train: Set) -> Result<Parts> {
    let [source, target] = [&train.files, &train.targets].map(|files| extension(&files[0]));
    let is_other = |path: &PathBuf| !train.files.contains(path) && !train.targets.contains(path);
    let mut files = listed(folder, Some("validation"))?;
    files.retain(|path| is_other(path) && [&source, &target].contains(&&extension(path)));
    if let Some(eval) = paired(&files, Some(&source)) {
        return Ok(Parts { train, eval, left_out: Vec::new() });
    }
    files.append(&mut of_part(folder, "validation")?);
    Ok(Parts { train, eval: Set::default(), left_out: files })
}

/// Returns the files of a folder as [`unknown_files`] does, with their paths as the user would write them.
fn listed(folder: &Path, part: Option<&str>) -> Result<Vec<PathBuf>> {
    Ok(unknown_files(folder, part)?.iter().map(|path| below(path)).collect())
}

fn below(path: &Path) -> PathBuf {
    path.strip_prefix("./").unwrap_or(path).to_owned()
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
         .txt and so on; rename a file to what it is. Parallel text (line n of one file is the target of line n of \
         another) is recognized by two names that differ in the language or the side at their end (train.en and \
         train.de, train.src and train.tgt). For others write the configuration yourself: task.kind = \"seq2seq\", \
         data.train for the sources and data.train_target for the targets (docs/configuration.md)",
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
        let of_file = parts(&dir.path().join("train-0.jsonl")).unwrap();
        assert_eq!((of_file.train.files.len(), of_file.eval.files), (1, vec![dir.path().join("dev.jsonl")]));
        assert!(of_file.left_out.is_empty());
        std::fs::remove_file(dir.path().join("train.txt")).unwrap();
        std::fs::remove_file(dir.path().join("dev.txt")).unwrap();
        assert_eq!(parts(dir.path()).unwrap().train.files.len(), 2, "compression is no format");
    }

    /// The names of the files: of training, its targets, evaluation, its targets, and those that are left out.
    fn named(dir: &tempfile::TempDir, file: &str) -> [String; 5] {
        let Parts { train, eval, left_out } = parts(&dir.path().join(file)).unwrap();
        let joined = |paths: Vec<PathBuf>| paths.iter().map(|path| name(path)).collect::<Vec<_>>().join(" ");
        [train.files, train.targets, eval.files, eval.targets, left_out].map(joined)
    }

    #[test]
    fn parallel_text_has_its_targets_in_other_files() {
        let dir = folder(&["train.de.gz", "train.en.gz", "val.de", "val.en", "val.fr", "test.de", "vocab.txt", "log"]);
        assert_eq!(named(&dir, ""), ["train.en.gz", "train.de.gz", "val.en", "val.de", ""]);
        assert_eq!(named(&dir, "train.de.gz"), ["train.de.gz", "train.en.gz", "val.de", "val.en", ""]);
        std::fs::write(dir.path().join("train.jsonl"), "").unwrap();
        assert_eq!(named(&dir, ""), ["train.jsonl", "", "", "", ""], "files of a known format come first");
        let dir = folder(&["news.src", "news.tgt", "dev.src", "dev.log", "notes.log"]);
        assert_eq!(named(&dir, ""), ["news.src", "news.tgt", "", "", "dev.src"]);
    }

    #[test]
    fn evaluation_data_may_be_of_another_format() {
        let dir = folder(&["train.jsonl", "dev.txt"]);
        assert_eq!(named(&dir, "dev.txt"), ["dev.txt", "", "", "", ""]);
        // Its content decides.
        for data in ["", "train.jsonl"] {
            assert_eq!(named(&dir, data), ["train.jsonl", "", "dev.txt", "", ""]);
        }
        let told = |left_out: &[&str]| {
            let left_out = left_out.iter().map(PathBuf::from).collect();
            Parts { left_out, ..Parts::of(vec!["t.csv".into()], Vec::new()) }.remark()
        };
        let one = "dev.txt is left out of the evaluation data: it is not in the form of t.csv";
        let two = "a, b are left out of the evaluation data: they are not in the form of t.csv";
        assert_eq!(told(&[]), None);
        assert_eq!([told(&["dev.txt"]), told(&["a", "b"])], [one, two].map(|text| Some(text.to_owned())));
    }

    #[test]
    fn files_of_no_known_format_are_refused() {
        let names = ["train.de.gz", "train.en.gz", "train.fr.gz", "val.en.gz"];
        let message = refused(&names, "");
        assert!(message.contains("the format of train.de.gz, train.en.gz, train.fr.gz: "), "{message}");
        let message = refused(&names, "train.en.gz");
        assert!(message.contains("the format of train.en.gz: ") && message.contains("data.train_target"), "{message}");
        assert!(!message.contains("set format"), "{message}");
        assert!(refused(&["train.en", "a.log"], "a.log").contains("the format of a.log: "));
        assert!(refused(&["a.bin"], "").contains("the folder has no data file"));
    }
}
