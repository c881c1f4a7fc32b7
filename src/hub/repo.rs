//! Names of repositories on the Hub: `org/name`, `org/name@revision`, `hf://datasets/org/name@revision/path`.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The branch of a name without a revision.
pub const MAIN: &str = "main";
/// The beginning of the name of a data file.
const SCHEME: &str = "hf://";
/// Characters of a component of a repository's name (`validate_repo_id` of `huggingface_hub`).
const LONGEST: usize = 96;

/// What a repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Model,
    Dataset,
}

/// A revision of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repo {
    pub kind: Kind,
    /// `org/name`.
    pub id: String,
    /// A branch, a tag, a commit, or a reference such as `refs/pr/1`.
    pub revision: String,
}

impl Repo {
    /// Reads `org/name` or `org/name@revision`; `None` if the text has another form.
    pub fn model(text: &str) -> Option<Self> {
        Self::read(Kind::Model, text)
    }

    /// Returns the model that a setting names, unless it names a local path: one that exists, or one whose first
    /// component is a local folder. Later in a process the answer stays, since a run may create such a folder.
    pub fn of_path(path: &Path) -> Option<Self> {
        static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
        let text = path.to_str()?;
        let repo = Self::model(text)?;
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let is_local = *known.entry(text.to_owned()).or_insert_with(|| {
            let organization = repo.id.split('/').next().unwrap_or_default();
            path.exists() || Path::new(organization).is_dir()
        });
        (!is_local).then_some(repo)
    }

    /// Returns the name without the organization.
    pub fn name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or_default()
    }

    /// Reads `hf://datasets/org/name[@revision]/path` as a repository and a path in it, which may be a pattern. `None`
    /// for any other text.
    ///
    /// # Errors
    /// Exit 2: `hf://` with something else behind it.
    pub fn data(text: &str) -> Option<Result<(Self, String)>> {
        let rest = text.strip_prefix(SCHEME)?;
        let read = || {
            let (organization, rest) = rest.strip_prefix("datasets/")?.split_once('/')?;
            let (name, rest) = rest.split_at(rest.find(['/', '@'])?);
            let (revision, path) = match rest.strip_prefix('@') {
                None => (MAIN.to_owned(), rest.strip_prefix('/')?),
                Some(rest) => revision_of(rest)?,
            };
            let repo = Self::read(Kind::Dataset, &format!("{organization}/{name}@{revision}"))?;
            is_inside(path).then(|| (repo, path.to_owned()))
        };
        Some(read().ok_or_else(|| {
            Error::input(format!(
                "{text}: expected hf://datasets/ORG/NAME/PATH or hf://datasets/ORG/NAME@REVISION/PATH"
            ))
        }))
    }

    fn read(kind: Kind, text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (organization, name) = id.split_once('/')?;
        let is_word = |part: &str| {
            let ends = |c: char| c.is_ascii_alphanumeric() || c == '_';
            part.len() <= LONGEST
                && part.starts_with(ends)
                && part.ends_with(ends)
                && part.chars().all(|c| ends(c) || c == '-' || c == '.')
                && !part.contains("--")
                && !part.contains("..")
        };
        let fits = is_word(organization) && is_word(name) && is_inside(revision);
        fits.then(|| Repo { kind, id: id.to_owned(), revision: revision.to_owned() })
    }

    /// Returns the path of the repository's page below the endpoint.
    pub fn page(&self) -> String {
        match self.kind {
            Kind::Model => self.id.clone(),
            Kind::Dataset => format!("datasets/{}", self.id),
        }
    }

    /// Returns the path of the repository in the API, below the endpoint.
    pub fn api(&self) -> String {
        let kind = if self.kind == Kind::Model { "models" } else { "datasets" };
        format!("api/{kind}/{}", self.id)
    }

    /// Returns the name of the repository's folder in the cache.
    pub fn folder(&self) -> String {
        let kind = if self.kind == Kind::Model { "models" } else { "datasets" };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// Returns the revision as one segment of a URL.
    pub fn revision_in_url(&self) -> String {
        encoded(&self.revision, false)
    }
}

impl Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Divides what follows an `@` into the revision and the path. `refs/convert/parquet` and `refs/pr/N` are revisions, as
/// in `HfFileSystem`, where `~parquet` is short for the former; other slashes of a revision are written `%2F`.
fn revision_of(text: &str) -> Option<(String, &str)> {
    let parts = if text.starts_with("refs/convert/") || text.starts_with("refs/pr/") { 3 } else { 1 };
    let (at, _) = text.match_indices('/').nth(parts - 1)?;
    let revision = match &text[..at] {
        "~parquet" => "refs/convert/parquet".to_owned(),
        revision => revision.replace("%2F", "/").replace("%2f", "/"),
    };
    Some((revision, &text[at + 1..]))
}

/// Whether a relative path with `/` stays in its folder: names come from a server and from users.
pub(super) fn is_inside(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains(['\\', '\0'])
}

/// Percent-encodes all but the unreserved characters of RFC 3986, and slashes in a path.
pub(super) fn encoded(text: &str, is_path: bool) -> String {
    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            b'/' if is_path => url.push('/'),
            _ => url += &format!("%{byte:02X}"),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let read = |text: &str| Repo::model(text).map(|repo| (repo.id, repo.revision));
        let found = |id: &str, revision: &str| Some((id.to_owned(), revision.to_owned()));
        assert_eq!(read("org/bert-base.v2_1"), found("org/bert-base.v2_1", "main"));
        assert_eq!(read("org/a@refs/pr/1"), found("org/a", "refs/pr/1"));
        for text in [
            "bert",
            "a/b/c",
            "/a/b",
            "a/",
            "./a/b",
            "../a",
            "./a",
            "~/a",
            "a/b@",
            "a/b@../c",
            "a/b@x//y",
            "a--b/c",
            "a/b..c",
            "a/-b",
            "a/b c",
            "hf://datasets/a/b/c",
            "a/b@x\\y",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let repo = Repo::model("org/a@refs/pr/1").unwrap();
        assert_eq!((repo.to_string(), repo.revision_in_url()), ("org/a@refs/pr/1".into(), "refs%2Fpr%2F1".into()));
        assert_eq!([repo.api(), repo.folder(), repo.page()], ["api/models/org/a", "models--org--a", "org/a"]);
    }

    #[test]
    fn a_local_folder_wins() {
        let here = |name: &str| Repo::of_path(Path::new(name));
        // Unit tests run in the folder of the package, which has src/hub and docs.
        assert_eq!(here("src/hub"), None, "it exists");
        assert_eq!(here("docs/nothing"), None, "docs is a local folder");
        assert_eq!(here("no-such-org/nothing").unwrap().id, "no-such-org/nothing");
    }

    #[test]
    fn names_of_data_files() {
        let read = |text: &str| Repo::data(text).map(|found| found.map(|(repo, path)| (repo.to_string(), path)).ok());
        let found = |repo: &str, path: &str| Some(Some((repo.to_owned(), path.to_owned())));
        assert_eq!(read("hf://datasets/org/a/data/x.jsonl"), found("org/a", "data/x.jsonl"));
        assert_eq!(read("hf://datasets/org/a@v1/x-*.parquet"), found("org/a@v1", "x-*.parquet"));
        assert_eq!(read("hf://datasets/o/a@refs/convert/parquet/c/x"), found("o/a@refs/convert/parquet", "c/x"));
        assert_eq!(read("hf://datasets/o/a@~parquet/c/x"), found("o/a@refs/convert/parquet", "c/x"));
        assert_eq!(read("hf://datasets/o/a@my%2Fbranch/x"), found("o/a@my/branch", "x"));
        assert_eq!(read("data/x.jsonl"), None);
        for text in ["hf://a/b/c", "hf://datasets/a/b", "hf://datasets/a/b/", "hf://datasets/a/b/../c", "hf://"] {
            assert_eq!(read(text), Some(None), "{text}");
        }
        assert_eq!(encoded("a b/c#d.json", true), "a%20b/c%23d.json");
    }
}
