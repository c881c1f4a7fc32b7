//! Uploads a model folder as one commit: `preupload` says how each file is stored, large files go to the storage of Git
//! LFS (<https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>), and the commit has the rest.

use super::catalog::Hub;
use super::client::{GIT_LFS, JSON};
use super::failure::{Failure, text_of};
use super::hash;
use super::repo::{MAIN, Repo};
use crate::error::{Context, Error, Result};
use crate::observe::logs::tell;
use crate::observe::memory::human;
use crate::observe::progress::Phase;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use ureq::SendBody;

/// Files of a request to `preupload`, and objects of a request to Git LFS: the limits of the Hub.
const FILES: usize = 256;
const OBJECTS: usize = 100;
/// Bytes by which the Hub tells text from binary files.
const SAMPLE: u64 = 512;
/// Files of a checkpoint that are not the model's.
const OF_TRAINING: [&str; 2] = ["trainer_state.json", "COMPLETE"];
const MEGABYTE: u64 = 1_000_000;

/// A file to upload.
struct Upload {
    /// Its name in the repository.
    name: String,
    path: PathBuf,
    size: u64,
    /// Its SHA-256 if it is stored by Git LFS.
    oid: Option<String>,
}

impl Hub {
    /// Uploads the files of a model folder, without its subfolders and without hidden files, as one commit. Creates the
    /// repository, `private` or not, and the branch if they do not exist. Returns the URL of the commit.
    ///
    /// # Errors
    /// Exit 2: no model folder, no token, no permission, offline. Exit 1: as for downloads.
    pub fn push(&self, folder: &Path, repo: &Repo, private: bool) -> Result<String> {
        if let Some(variable) = self.settings.offline {
            return Err(Error::input(format!("{repo}: {variable} is set, so nothing is uploaded: unset it")));
        }
        if self.settings.token.is_none() {
            return Err(Error::input(format!(
                "{repo}: uploading needs a token that may write: set HF_TOKEN, or log in with `hf auth login`"
            )));
        }
        let mut files = files(folder)?;
        let explain = |failure: Failure| failure.explain(&self.settings, repo, None);
        self.create(repo, private).map_err(explain)?;
        self.choose_storage(repo, &mut files)?;
        let large: Vec<&Upload> = files.iter().filter(|file| file.oid.is_some()).collect();
        self.store(repo, &large)?;
        let commit = self.url(repo, "commit");
        let answer = self.client.post(&commit, "application/x-ndjson", &commit_of(&files)?, false).map_err(explain)?;
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        tell(&format!("uploaded {} files, {}, to {repo}", files.len(), human(bytes)));
        let url = answer.get("commitUrl").and_then(Value::as_str);
        Ok(url.map_or_else(|| self.client.url(&repo.page()), str::to_owned))
    }

    /// Returns the URL of an operation on the revision.
    fn url(&self, repo: &Repo, operation: &str) -> String {
        self.client.url(&format!("{}/{operation}/{}", repo.api(), repo.revision_in_url()))
    }

    fn create(&self, repo: &Repo, private: bool) -> Result<(), Failure> {
        let (organization, name) = repo.id.split_once('/').unwrap_or_default();
        let mut wanted = json!({"type": "model", "organization": organization, "name": name});
        if private {
            wanted["visibility"] = json!("private");
        }
        match self.client.post(&self.client.url("api/repos/create"), JSON, wanted.to_string().as_bytes(), true) {
            Ok(_) => tell(&format!("created {} on {}", repo.id, self.settings.host())),
            Err(Failure::Refused { status: 409, .. }) => {}
            // Who may not create repositories there may still write to this one.
            Err(refused @ Failure::Refused { status: 403, .. }) => {
                self.client.json(&self.client.url(&repo.api())).map_err(|_| refused)?;
            }
            Err(failure) => return Err(failure),
        }
        if repo.revision == MAIN || repo.revision.starts_with("refs/") {
            return Ok(());
        }
        match self.client.post(&self.url(repo, "branch"), JSON, b"{}", true) {
            Ok(_) | Err(Failure::Refused { status: 409, .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Asks how each file is stored, and removes those that the repository's `.gitignore` excludes.
    fn choose_storage(&self, repo: &Repo, files: &mut Vec<Upload>) -> Result<()> {
        let mut ignored = Vec::new();
        for some in files.chunks_mut(FILES) {
            let described = some.iter().map(|file| -> io::Result<Value> {
                let mut sample = Vec::new();
                File::open(&file.path)?.take(SAMPLE).read_to_end(&mut sample)?;
                Ok(json!({"path": file.name, "size": file.size, "sample": STANDARD.encode(sample)}))
            });
            let described = described.collect::<io::Result<Vec<Value>>>().context("reading the model folder")?;
            let body = json!({ "files": described }).to_string();
            let answer = self.client.post(&self.url(repo, "preupload"), JSON, body.as_bytes(), true);
            let answer = answer.map_err(|failure| failure.explain(&self.settings, repo, None))?;
            for file in some {
                let mut of = answer.get("files").and_then(Value::as_array).into_iter().flatten();
                let Some(how) = of.find(|how| how["path"] == file.name) else {
                    let host = self.settings.host();
                    return Err(Error::other(format!("{repo}: {}: {host} does not say how to store it", file.name)));
                };
                if how["shouldIgnore"] == true {
                    ignored.push(file.name.clone());
                } else if how["uploadMode"] == "lfs" && file.size > 0 {
                    file.oid = Some(hash::sha256(&file.path).context(file.path.display())?);
                }
            }
        }
        if !ignored.is_empty() {
            tell(&format!("{repo}: its .gitignore excludes {}", ignored.join(", ")));
            files.retain(|file| !ignored.contains(&file.name));
        }
        Ok(())
    }

    /// Uploads files to the storage of Git LFS, which does not ask for those that it has.
    fn store(&self, repo: &Repo, files: &[&Upload]) -> Result<()> {
        let total: u64 = files.iter().map(|file| file.size).sum();
        let sent = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&sent);
        let megabytes = move || (seen.load(Ordering::Relaxed).min(total) / MEGABYTE, total.div_ceil(MEGABYTE));
        let _phase = (total > 0).then(|| Phase::watch(format!("uploading {}", repo.id), "MB", megabytes));
        for some in files.chunks(OBJECTS) {
            let objects: Vec<Value> = some.iter().map(|file| json!({"oid": file.oid, "size": file.size})).collect();
            let wanted = json!({
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "hash_algo": "sha256",
                "ref": {"name": repo.revision},
                "objects": objects,
            });
            let url = self.client.url(&format!("{}.git/info/lfs/objects/batch", repo.page()));
            let answer = self.client.post(&url, GIT_LFS, wanted.to_string().as_bytes(), true);
            let answer = answer.map_err(|failure| failure.explain(&self.settings, repo, None))?;
            for file in some {
                let mut of = answer.get("objects").and_then(Value::as_array).into_iter().flatten();
                let object = of.find(|object| object["oid"] == json!(file.oid)).unwrap_or(&Value::Null);
                if let Some(why) = object.pointer("/error/message").and_then(Value::as_str) {
                    return Err(Error::other(format!("{repo}: {}: the Hub refuses it: {why}", file.name)));
                }
                let stored = self.store_file(file, object, &sent);
                stored.map_err(|failure| failure.explain(&self.settings, repo, Some(&file.name)))?;
            }
        }
        Ok(())
    }

    /// Uploads a file as an object's `actions` say: in one piece, or in parts.
    fn store_file(&self, file: &Upload, object: &Value, sent: &Arc<AtomicU64>) -> Result<(), Failure> {
        let Some(href) = object.pointer("/actions/upload/href").and_then(Value::as_str) else {
            sent.fetch_add(file.size, Ordering::Relaxed);
            return Ok(());
        };
        let header = object.pointer("/actions/upload/header").and_then(Value::as_object);
        let entries = || header.into_iter().flatten();
        let piece = |url: &str, headers: &[(String, String)], from: u64, length: u64| {
            self.client.put(url, headers, length, &mut || part_of(&file.path, from, length, sent))
        };
        let size = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).filter(|&size| size > 0);
        match header.and_then(|header| size(header.get("chunk_size")?)) {
            None => {
                let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
                let headers: Vec<(String, String)> = entries().filter_map(text).collect();
                piece(href, &headers, 0, file.size)?;
            }
            Some(chunk) => {
                let number = |(key, url): (&String, &Value)| Some((key.parse::<u64>().ok()?, url.as_str()?.to_owned()));
                let mut urls: Vec<(u64, String)> = entries().filter_map(number).collect();
                urls.sort();
                if urls.len() as u64 != file.size.div_ceil(chunk) {
                    return Err(Failure::Unusable("the number of parts does not fit the size".into()));
                }
                let mut parts = Vec::new();
                for ((_, url), number) in urls.iter().zip(1_u64..) {
                    let from = (number - 1) * chunk;
                    let headers = piece(url, &[], from, chunk.min(file.size - from))?;
                    let etag =
                        text_of(&headers, "etag").ok_or_else(|| Failure::Unusable("a part has no ETag".into()))?;
                    parts.push(json!({"partNumber": number, "etag": etag}));
                }
                let complete = json!({"oid": file.oid, "parts": parts}).to_string();
                self.client.post(href, GIT_LFS, complete.as_bytes(), true)?;
            }
        }
        if let Some(href) = object.pointer("/actions/verify/href").and_then(Value::as_str) {
            let whole = json!({"oid": file.oid, "size": file.size}).to_string();
            self.client.post(href, JSON, whole.as_bytes(), true)?;
        }
        Ok(())
    }
}

/// Returns the files of a model folder, sorted by name.
fn files(folder: &Path) -> Result<Vec<Upload>> {
    let refuse = |why: &str| Err(Error::input(format!("{}: {why}", folder.display())));
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut files = Vec::new();
    for entry in entries.input_context(folder.display())? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let about = fs::metadata(entry.path()).context(entry.path().display())?;
        if about.is_file() && !name.starts_with('.') && !OF_TRAINING.contains(&name.as_str()) {
            files.push(Upload { path: entry.path(), size: about.len(), oid: None, name });
        }
    }
    for name in super::files::in_subfolders() {
        let path = folder.join(name);
        if let Some(about) = fs::metadata(&path).ok().filter(fs::Metadata::is_file) {
            files.push(Upload { path, size: about.len(), oid: None, name: name.to_owned() });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if !super::files::is_model(&names) {
        return refuse("neither config.json nor adapter_config.json: expected a model folder, such as a run's final");
    }
    if super::files::weights(&names).is_none() {
        return refuse("a model folder without weights");
    }
    Ok(files)
}

/// Returns the commit as lines of JSON: the message, then a line for each file.
fn commit_of(files: &[Upload]) -> Result<Vec<u8>> {
    let mut lines = json!({"key": "header", "value": {"summary": "Upload model", "description": ""}}).to_string();
    for file in files {
        let Upload { name, path, size, oid } = file;
        let line = match oid {
            Some(oid) => {
                json!({"key": "lfsFile", "value": {"path": name, "algo": "sha256", "oid": oid, "size": size}})
            }
            None => {
                let content = STANDARD.encode(fs::read(path).context(path.display())?);
                json!({"key": "file", "value": {"path": name, "encoding": "base64", "content": content}})
            }
        };
        lines += &format!("\n{line}");
    }
    Ok((lines + "\n").into_bytes())
}

/// A part of a file that is being sent.
struct Counted {
    part: io::Take<File>,
    sent: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.part.read(buffer)?;
        self.sent.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn part_of(path: &Path, from: u64, length: u64, sent: &Arc<AtomicU64>) -> io::Result<SendBody<'static>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    Ok(SendBody::from_owned_reader(Counted { part: file.take(length), sent: Arc::clone(sent) }))
}
