//! `data.train` and other settings that name data files.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::value::{Value, describe};

/// Names that a message shows of a list.
const SHOWN: usize = 3;

/// Paths, folders and patterns of data files; in TOML a string or a list of strings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct DataFiles(Vec<PathBuf>);

/// [`DataFiles`] in TOML.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(PathBuf),
    List(Vec<PathBuf>),
}

impl DataFiles {
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// Returns all of these, one after another.
    pub fn joined<'a>(all: impl IntoIterator<Item = &'a DataFiles>) -> Self {
        DataFiles(all.into_iter().flat_map(|files| files.0.iter().cloned()).collect())
    }

    /// Returns the first path, which is empty if none is set.
    pub fn first(&self) -> &Path {
        self.0.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

impl From<PathBuf> for DataFiles {
    fn from(path: PathBuf) -> Self {
        DataFiles(vec![path])
    }
}

impl From<&str> for DataFiles {
    fn from(path: &str) -> Self {
        DataFiles(vec![path.into()])
    }
}

impl From<&Path> for DataFiles {
    fn from(path: &Path) -> Self {
        DataFiles(vec![path.to_owned()])
    }
}

impl From<Written> for DataFiles {
    fn from(written: Written) -> Self {
        match written {
            Written::One(path) => DataFiles(vec![path]),
            Written::List(paths) => DataFiles(paths),
        }
    }
}

impl From<DataFiles> for Written {
    fn from(mut files: DataFiles) -> Self {
        match files.0.len() {
            0 => Written::One(PathBuf::new()),
            1 => Written::One(files.0.remove(0)),
            _ => Written::List(files.0),
        }
    }
}

impl Display for DataFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
        f.write_str(&names.join(", "))?;
        match self.0.len() {
            n if n > SHOWN => write!(f, " and {} more", n - SHOWN),
            _ => Ok(()),
        }
    }
}

impl Value for DataFiles {
    fn kind() -> String {
        "path or list of paths".into()
    }

    fn expected() -> String {
        "a path in quotes, or a list of such paths".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let DeValue::Array(items) = value else {
            return PathBuf::from_toml(value).map(|path| path.map(Self::from));
        };
        let path = |item: &DeValue<'_>| match PathBuf::from_toml(item) {
            Some(path) => path,
            None => Err(format!("found {} in the list, expected {}", describe(item), PathBuf::expected())),
        };
        let paths: Result<Vec<PathBuf>, String> = items.iter().map(|item| path(item.get_ref())).collect();
        Some(paths.and_then(|paths| match paths.is_empty() {
            true => Err("the list is empty: name at least one file".into()),
            false => Ok(DataFiles(paths)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Option<Result<DataFiles, String>> {
        DataFiles::from_toml(DeValue::parse(toml).unwrap().get_ref())
    }

    #[test]
    fn a_path_or_a_list_of_paths_is_read_and_written() {
        for (toml, paths, json, shown) in [
            ("\"a\"", &["a"][..], "\"a\"", "a"),
            ("[\"a\"]", &["a"], "\"a\"", "a"),
            ("[\"a\", 'b/*']", &["a", "b/*"], "[\"a\",\"b/*\"]", "a, b/*"),
            ("[\"a\", \"b\", \"c\", \"d\"]", &["a", "b", "c", "d"], "[\"a\",\"b\",\"c\",\"d\"]", "a, b, c and 1 more"),
        ] {
            let files = read(toml).unwrap().unwrap();
            assert_eq!((files.paths().len(), files.first()), (paths.len(), Path::new(paths[0])));
            assert!(files.paths().iter().zip(paths).all(|(path, expected)| path == Path::new(expected)));
            assert_eq!(
                (serde_json::to_string(&files).unwrap(), files.to_string()),
                (json.to_owned(), shown.to_owned())
            );
            assert_eq!(serde_json::from_str::<DataFiles>(json).unwrap(), files);
        }
    }

    #[test]
    fn other_values_are_refused() {
        assert!(read("1").is_none() && read("\"\"").is_none());
        assert_eq!(read("[]").unwrap().unwrap_err(), "the list is empty: name at least one file");
        let message = read("[\"a\", 1]").unwrap().unwrap_err();
        assert_eq!(message, "found the integer 1 in the list, expected a path in quotes");
    }
}
