//! The files that a setting names: paths, folders and patterns; and lines in them.

use super::part::Part;
use super::pieces::Piece;
use crate::error::{Error, Result};
use crate::hub;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bits of a [`number`] that hold the line.
const LINE_BITS: u32 = 40;
/// Extensions of the files that a folder stands for, without `.gz` and `.zst`.
const KNOWN: [&str; 16] = [
    "jsonl", "ndjson", "json", "csv", "tsv", "tab", "parquet", "arrow", "feather", "ipc", "txt", "text", "md", "conll",
    "bio", "iob",
];
/// Beginnings of names that are no data: documentation, and what `datasets` writes beside its files.
const NO_DATA: [&str; 6] = ["readme", "license", "dataset_info", "dataset_dict", "state.", "changelog"];
/// The beginning of the names of results that `datasets` keeps beside its data, and its file in a folder of parts.
const RESULT: &str = "cache-";
const DATASET_DICT: &str = "dataset_dict.json";
/// Words in names that say which part of a data set a file is.
const PARTS: [(&str, &[&str]); 3] = [
    ("training", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev", "eval", "evaluation"]),
    ("test", &["test", "testing"]),
];

/// Data files in the order in which they are read, at least one; and which of their records are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    paths: Vec<PathBuf>,
    part: Option<Part>,
    /// What is read of each file, if not all of it.
    pieces: Option<Arc<[Piece]>>,
}

impl Files {
    /// Finds the files of paths, folders and patterns (`*`, `?`, `[abc]`, `**`), in the given order. The files of a
    /// folder or a pattern are sorted by name. A folder stands for its data files: names with a known extension that
    /// do not start with `.` or `_`; its subfolders are not read. A path that exists is never taken as a pattern. Files
    /// on the Hub (`hf://datasets/org/name/path`) are downloaded.
    ///
    /// # Errors
    /// Exit 2: no such file; a pattern or a folder without files; a file that is named twice; a folder with files of
    /// several formats, or of several parts of a data set (training and test). As [`hub::data_files`].
    pub fn find<P: AsRef<Path>>(given: &[P]) -> Result<Self> {
        let mut found = Vec::new();
        for path in given.iter().map(AsRef::as_ref) {
            if let Some(files) = hub::data_files(path)? {
                found.extend(files);
                continue;
            }
            match path {
                _ if path.is_dir() => found.extend(in_folder(path)?),
                _ if path.exists() => found.push(path.to_owned()),
                _ if path.to_string_lossy().contains(['*', '?', '[']) => found.extend(matching(path)?),
                _ => return Err(Error::input(format!("no such file: {}", path.display()))),
            }
        }
        let mut seen = HashSet::new();
        match found.iter().find(|path| !seen.insert(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))) {
            Some(twice) => Err(Error::input(format!("{} is named twice: keep it once", twice.display()))),
            None if found.is_empty() => Err(Error::input("the list is empty: name at least one file")),
            None => Ok(Files { paths: found, part: None, pieces: None }),
        }
    }

    /// Returns the files of all of these, one after another. Those of each are numbered on from those before.
    pub fn joined<'a>(all: impl IntoIterator<Item = &'a Files>) -> Self {
        let paths = all.into_iter().flat_map(|files| files.paths.iter().cloned()).collect();
        Files { paths, part: None, pieces: None }
    }

    /// Returns these files with a part of their records to read; `None` is all of them.
    #[must_use]
    pub fn with_part(self, part: Option<Part>) -> Self {
        Files { part, ..self }
    }

    pub fn part(&self) -> Option<Part> {
        self.part
    }

    /// Returns files of which readers read these pieces only.
    pub fn of_pieces(pieces: Vec<(PathBuf, Piece)>) -> Self {
        let (paths, pieces): (_, Vec<Piece>) = pieces.into_iter().unzip();
        Files { paths, part: None, pieces: Some(pieces.into()) }
    }

    /// Whether these are pieces, which may have no valid record although the files have some.
    pub fn are_pieces(&self) -> bool {
        self.pieces.is_some()
    }

    pub(super) fn piece(&self, file: usize) -> Option<&Piece> {
        self.pieces.as_ref().and_then(|pieces| pieces.get(file))
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().map(PathBuf::as_path)
    }

    /// Returns file and line of a [`number`]: `a.jsonl:3`; `a.parquet: row 3` for a file without lines.
    pub fn place(&self, number: usize) -> String {
        let (file, line) = split(number);
        match self.paths.get(file) {
            Some(path) if is_columnar(path) => format!("{}: row {line}", path.display()),
            Some(path) => format!("{}:{line}", path.display()),
            None => format!("line {line}"),
        }
    }

    /// Returns `line 3`, with the file if there are several.
    pub fn line(&self, number: usize) -> String {
        if self.paths.len() == 1 { format!("line {}", split(number).1) } else { self.place(number) }
    }

    /// Returns an input error at a [`number`].
    pub fn error(&self, number: usize, why: &str) -> Error {
        Error::input(format!("{}: {why}", self.place(number)))
    }
}

impl<P: Into<PathBuf>> From<P> for Files {
    fn from(path: P) -> Self {
        Files { paths: vec![path.into()], part: None, pieces: None }
    }
}

impl Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.paths.as_slice() {
            [one] => one.display().fmt(f),
            all => write!(f, "{} and {} more", all[0].display(), all.len() - 1),
        }
    }
}

/// Returns the number of a line, counted from 1, of a file, counted from 0. For the first file it is the line's.
pub fn number(file: usize, line: usize) -> usize {
    (file << LINE_BITS) | line
}

/// Returns file and line of a [`number`].
pub fn split(number: usize) -> (usize, usize) {
    (number >> LINE_BITS, number & ((1 << LINE_BITS) - 1))
}

/// Whether the file is Parquet or Arrow, by its extension.
pub fn is_columnar(path: &Path) -> bool {
    ["parquet", "arrow", "feather", "ipc"].contains(&extension(path).as_str())
}

fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |why: &str| Error::input(format!("{}: {why}", pattern.display()));
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let found = glob::glob_with(&pattern.to_string_lossy(), options)
        .map_err(|e| refuse(&format!("not a valid pattern: {e}")))?
        .collect::<Result<Vec<PathBuf>, _>>()
        .map_err(|e| refuse(&e.to_string()))?;
    let wants_results = name(pattern).starts_with(RESULT);
    let is_wanted = |path: &PathBuf| !path.is_dir() && (wants_results || !is_result(path));
    let mut files: Vec<PathBuf> = found.into_iter().filter(is_wanted).collect();
    files.sort();
    if files.is_empty() { Err(refuse("no file matches this pattern")) } else { Ok(files) }
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |why: &str| Error::input(format!("{}: {why}", folder.display()));
    let paths = entries(folder)?;
    let files: Vec<PathBuf> = paths.iter().filter(|path| is_data(path)).cloned().collect();
    if files.is_empty() {
        let folders: Vec<String> = paths.iter().filter(|path| path.is_dir()).map(|path| name(path)).collect();
        if folder.join(DATASET_DICT).is_file() && !folders.is_empty() {
            let parts: Vec<String> = folders.iter().map(|name| folder.join(name).display().to_string()).collect();
            let what = "the folder is a DatasetDict of datasets: name one of its parts";
            return Err(refuse(&format!("{what}: {}", parts.join(", "))));
        }
        let more = match folders.as_slice() {
            [] => String::new(),
            some => format!("; its subfolders are {}: name one, or use a pattern such as **/*.parquet", quoted(some)),
        };
        return Err(refuse(&format!("the folder has no data file (.jsonl, .json, .csv, .tsv, .parquet, ...){more}")));
    }
    let mut formats: BTreeMap<String, &Path> = BTreeMap::new();
    let mut parts: BTreeMap<&str, &Path> = BTreeMap::new();
    for path in &files {
        formats.entry(extension(path)).or_insert(path);
        parts.extend(part(&name(path)).map(|part| (part, path.as_path())));
    }
    let several = |what: &str, of: Vec<&&Path>| {
        let names = quoted(of.iter().map(|path| name(path)));
        refuse(&format!("the folder has files of several {what} ({names}): name the files, or use a pattern"))
    };
    match (formats.len(), parts.len()) {
        (2.., _) => Err(several("formats", formats.values().collect())),
        (_, 2..) => Err(several("parts of a data set", parts.values().collect())),
        _ => Ok(files),
    }
}

/// Returns the data files of a folder that are the `part` ("training", "validation" or "test") of a data set by their
/// names, sorted by name.
///
/// # Errors
/// Exit 2: a folder that cannot be read.
pub fn of_part(folder: &Path, part_of: &str) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| is_data(path) && part(&name(path)) == Some(part_of));
    Ok(paths)
}

/// Whether the extension is one that a folder's data files have.
pub fn has_known_extension(path: &Path) -> bool {
    KNOWN.contains(&extension(path).as_str())
}

/// Returns the files of a folder, sorted by name, that have no known extension and are the `part_of` ("training",
/// "validation" or "test") of a data set by their names; `None` for names that say no part.
///
/// # Errors
/// Exit 2: a folder that cannot be read.
pub fn unknown_files(folder: &Path, part_of: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| path.is_file() && !has_known_extension(path) && part(&name(path)) == part_of);
    Ok(paths)
}

/// Returns what is in a folder, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|e| Error::input(format!("{}: {e}", folder.display())))?;
    let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file of a folder is a data file, by its name.
fn is_data(path: &Path) -> bool {
    let name = name(path).to_lowercase();
    let is_other = name.starts_with(['.', '_']) || NO_DATA.iter().any(|no| name.starts_with(no));
    KNOWN.contains(&extension(path).as_str()) && !path.is_dir() && !is_result(path) && !is_other
}

/// Whether a file has results of `datasets` that it keeps beside the data.
fn is_result(path: &Path) -> bool {
    name(path).starts_with(RESULT) && extension(path) == "arrow"
}

/// Returns the part of a data set that a file is by its name, if it says so.
fn part(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| PARTS.iter().find(|(_, names)| names.contains(&word)).map(|(part, _)| *part))
}

/// Returns the folder that a file is in; the current one for a mere name.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the extension in lowercase, ignoring a final `.gz` or `.zst`; empty if there is none.
pub fn extension(path: &Path) -> String {
    match compression(path) {
        Some(_) => ending(&path.with_extension("")),
        None => ending(path),
    }
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Returns the compression that a file's name says.
pub(super) fn compression(path: &Path) -> Option<&'static str> {
    match ending(path).as_str() {
        "gz" => Some("gzip"),
        "zst" | "zstd" => Some("zstd"),
        _ => None,
    }
}

/// Formats names for a message: `"text", "label"`.
pub(super) fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|n| format!("{:?}", n.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    /// The names of the files that are found below the folder, or the message.
    fn found(dir: &tempfile::TempDir, given: &[&str]) -> Result<Vec<String>, String> {
        let given: Vec<PathBuf> = given.iter().map(|name| dir.path().join(name)).collect();
        let below = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
        Files::find(&given).map(|files| files.paths().iter().map(below).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn lists_folders_and_patterns_have_a_fixed_order() {
        let dir = folder(&[
            "s/b-2.jsonl",
            "s/b-10.jsonl.gz",
            "s/a.jsonl.zst",
            "s/.hidden.jsonl",
            "s/_x.jsonl",
            "s/README.md",
            "s/t/c.jsonl",
            "s/state.json",
            "z.csv",
            "a[1].csv",
        ]);
        assert_eq!(found(&dir, &["z.csv", "s"]).unwrap(), ["z.csv", "s/a.jsonl.zst", "s/b-10.jsonl.gz", "s/b-2.jsonl"]);
        assert_eq!(found(&dir, &["s/b-*"]).unwrap(), ["s/b-10.jsonl.gz", "s/b-2.jsonl"]);
        assert_eq!(found(&dir, &["**/[bc]*.jsonl"]).unwrap(), ["s/b-2.jsonl", "s/t/c.jsonl"]);
        assert_eq!(found(&dir, &["a[1].csv"]).unwrap(), ["a[1].csv"], "a file with that name is not a pattern");
    }

    #[test]
    fn what_names_no_files_is_an_error() {
        let dir = folder(&[
            "empty/x.bin",
            "sub/a/x.jsonl",
            "mixed/a.csv",
            "mixed/b.json",
            "parts/train-0.jsonl",
            "parts/test-0.jsonl",
            "parts/x_train.jsonl",
            "one/latest.jsonl",
            "one/b.train.jsonl",
            "z.csv",
        ]);
        for (given, says) in [
            (vec!["none.csv"], "no such file: "),
            (vec!["none*.csv"], "none*.csv: no file matches this pattern"),
            (vec!["empty"], "empty: the folder has no data file"),
            (vec!["sub"], "its subfolders are \"a\": name one"),
            (vec!["mixed"], "mixed: the folder has files of several formats (\"a.csv\", \"b.json\")"),
            (vec!["parts"], "several parts of a data set (\"test-0.jsonl\", \"x_train.jsonl\")"),
            (vec!["z.csv", "*.csv"], "z.csv is named twice"),
            (vec![], "the list is empty"),
            (vec!["a***"], "not a valid pattern"),
        ] {
            let message = found(&dir, &given).unwrap_err();
            assert!(message.contains(says), "{given:?}: {message}");
        }
        assert_eq!(found(&dir, &["one"]).unwrap().len(), 2, "no part but training is named");
        assert!(Files::find(&["hf://datasets/a"]).unwrap_err().to_string().contains("hf://datasets/a: "));
        let saved = folder(&["data-00000-of-00002.arrow", "cache-1f.arrow", "dataset_info.json", "state.json"]);
        assert_eq!(found(&saved, &[""]).unwrap(), ["data-00000-of-00002.arrow"], "a folder that datasets saved");
        assert_eq!(found(&saved, &["*.arrow"]).unwrap(), ["data-00000-of-00002.arrow"]);
        assert_eq!(found(&saved, &["cache-*.arrow"]).unwrap(), ["cache-1f.arrow"], "a pattern for results");
        let parts = folder(&["d/dataset_dict.json", "d/train/data-00000-of-00001.arrow", "d/test/state.json"]);
        let [all, test, train] = ["d", "d/test", "d/train"].map(|name| parts.path().join(name).display().to_string());
        let expected =
            format!("{all}: the folder is a DatasetDict of datasets: name one of its parts: {test}, {train}");
        assert_eq!(found(&parts, &["d"]).unwrap_err(), expected);
    }

    #[test]
    fn numbers_are_places() {
        let files = Files { paths: vec!["a.jsonl".into(), "b.parquet".into()], part: None, pieces: None };
        assert_eq!((number(0, 7), split(number(3, 9))), (7, (3, 9)));
        assert_eq!(files.place(7), "a.jsonl:7");
        assert_eq!(files.line(number(1, 2)), "b.parquet: row 2");
        assert_eq!((Files::from("a").line(4), files.to_string()), ("line 4".into(), "a.jsonl and 1 more".into()));
    }
}
