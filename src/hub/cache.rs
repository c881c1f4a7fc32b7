//! The cache of `huggingface_hub`, so that what Python has downloaded is found, and the reverse
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).
//!
//! `models--org--name/refs/REVISION` has the commit of a branch or a tag. `snapshots/COMMIT/PATH` are links to
//! `blobs/ETAG`, and `ETAG` is the SHA-256 of a large file, or the Git hash of a small one. A blob that is being
//! downloaded is `ETAG.incomplete`, under the lock `.locks/models--org--name/ETAG.lock`.

use super::repo::{Repo, is_inside};
use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::ErrorKind::AlreadyExists;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of the cache for a repository.
pub(super) struct Cache {
    pub root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub fn of(folder: &Path, repo: &Repo) -> Self {
        Cache { root: folder.join(repo.folder()), locks: folder.join(".locks").join(repo.folder()) }
    }

    /// Returns the commit of a revision, if the cache knows it.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let known = fs::read_to_string(self.root.join("refs").join(revision));
        let commit = known.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
        self.snapshot(&commit).is_dir().then_some(commit)
    }

    /// Records the commit of a revision.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.root.join("refs").join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        create_parent(&path)?;
        // Others never see a part of it.
        let new = temporary(&path);
        fs::write(&new, commit).and_then(|()| fs::rename(&new, &path)).context(path.display())
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Returns the complete files of a snapshot, as paths in the repository, sorted.
    pub fn names(&self, commit: &str) -> Vec<String> {
        let (root, mut names) = (self.snapshot(commit), Vec::new());
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.exists() {
                    names.extend(path.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_owned));
                }
            }
        }
        names.sort();
        names
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Waits until no other process or thread downloads this blob; the lock ends with the file that is returned. `None`
    /// on a file system without locks: there, two processes may write the same bytes to the same places.
    ///
    /// # Errors
    /// The system's, naming the path.
    pub fn lock(&self, etag: &str) -> Result<Option<File>> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).context(path.display())?;
        Ok(file.lock().is_ok().then_some(file))
    }

    /// Puts a complete blob into a snapshot.
    ///
    /// # Errors
    /// Exit 2 for a name that leaves the folder; the system's, naming the path.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        if !is_inside(name) {
            return Err(Error::input(format!("{name:?}: not a path within a repository")));
        }
        let path = self.snapshot(commit).join(name);
        create_parent(&path)?;
        let target = format!("{}blobs/{etag}", "../".repeat(2 + name.matches('/').count()));
        let link = || std::os::unix::fs::symlink(&target, &path);
        let linked = match link() {
            // The blob that an old link leads to was removed.
            Err(e) if e.kind() == AlreadyExists && !path.exists() => fs::remove_file(&path).and_then(|()| link()),
            linked => linked,
        };
        match linked {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == AlreadyExists => Ok(()),
            // A file system without links.
            Err(_) => self.copy(etag, &path),
        }
    }

    /// Copies a complete blob to a place in a snapshot, where others never see a part of it.
    fn copy(&self, etag: &str, to: &Path) -> Result<()> {
        let blob = self.blob(etag);
        // Among the blobs: what lies in a snapshot has a name in the repository.
        let new = temporary(&blob);
        let copied = fs::copy(&blob, &new).and_then(|_| fs::rename(&new, to));
        copied.inspect_err(|_| _ = fs::remove_file(&new)).context(to.display())
    }
}

/// Returns a name beside a file, one that no other thread or process gets.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent)
        .context(format!("{} (the folder for downloads; HF_HOME names another)", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a file system without links.
    #[test]
    fn a_copy_of_a_blob_is_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { root: folder.path().join("models--a--b"), locks: folder.path().join(".locks") };
        let (blobs, snapshot) = (cache.root.join("blobs"), cache.snapshot("c0ffee"));
        for folder in [&blobs, &snapshot] {
            fs::create_dir_all(folder).unwrap();
        }
        let count = |folder: &Path| fs::read_dir(folder).unwrap().count();
        let to = snapshot.join("config.json");
        let why = cache.copy("e7a9", &to).unwrap_err().to_string();
        assert!(why.contains("config.json: "), "{why}");
        assert_eq!((count(&blobs), count(&snapshot)), (0, 0));
        for content in ["{}", "{\"a\": 1}"] {
            fs::write(cache.blob("e7a9"), content).unwrap();
            cache.copy("e7a9", &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), content);
            assert_eq!((count(&blobs), cache.names("c0ffee")), (1, vec!["config.json".to_owned()]));
        }
        // A copy that cannot get its name leaves nothing.
        let taken = snapshot.join("taken");
        fs::create_dir_all(taken.join("by a folder")).unwrap();
        assert!(cache.copy("e7a9", &taken).is_err());
        assert_eq!((count(&blobs), count(&snapshot)), (1, 2));
    }
}
