//! Downloads files into the cache: several at a time, resumed, and checked.

use super::cache::{Cache, create_parent};
use super::client::{ATTEMPTS, Ask, Client};
use super::failure::{Failure, text_of};
use super::listing::Entry;
use super::repo::{Repo, encoded};
use super::settings::Settings;
use crate::error::{Context, Error, Result};
use crate::observe::memory::human;
use crate::observe::progress::{Phase, note};
use crate::observe::rank_of_environment;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Files that are downloaded at a time.
const WORKERS: usize = 4;
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;
/// The unit of the progress bar.
const MEGABYTE: u64 = 1_000_000;

/// Files of a commit to download.
pub(super) struct Transfer<'a> {
    pub client: &'a Client,
    pub settings: &'a Settings,
    pub repo: &'a Repo,
    pub cache: &'a Cache,
    pub commit: &'a str,
}

/// The progress of a transfer.
#[derive(Default)]
struct Tally {
    bytes: AtomicU64,
    /// Whether a file failed, so that the others stop.
    failed: AtomicBool,
}

/// Why the body of a file stopped.
enum Stop {
    /// Another attempt may continue.
    Again(Failure),
    Final(Error),
}

impl Transfer<'_> {
    /// Downloads the files that are not in the snapshot yet; `told` is whether a line says so.
    ///
    /// # Errors
    /// Of the first file that fails: [`Failure::explain`]; a wrong size or checksum; the system's, naming the path.
    pub fn run(&self, entries: &[&Entry], told: bool) -> Result<()> {
        let snapshot = self.cache.snapshot(self.commit);
        let missing: Vec<&Entry> =
            entries.iter().copied().filter(|entry| !snapshot.join(&entry.name).exists()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let total: u64 = missing.iter().filter_map(|entry| entry.size).sum();
        if told && rank_of_environment() == 0 {
            let (count, commit) = (missing.len(), self.commit.get(..7).unwrap_or(self.commit));
            note(&format!(
                "downloading {} (commit {commit}) from {}: {count} file{}, {}, to {}",
                self.repo,
                self.settings.host(),
                if count == 1 { "" } else { "s" },
                if total > 0 { human(total) } else { "size unknown".into() },
                self.cache.root.display()
            ));
        }
        let tally = Arc::new(Tally::default());
        let seen = Arc::clone(&tally);
        let megabytes = move || (seen.bytes.load(Ordering::Relaxed) / MEGABYTE, total.div_ceil(MEGABYTE));
        let _phase = told.then(|| Phase::watch(format!("downloading {}", self.repo), "MB", megabytes));
        let (next, first) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some(entry) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if tally.failed.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(e) = self.file(entry, &tally) {
                    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    tally.failed.store(true, Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| (0..WORKERS.min(missing.len())).for_each(|_| _ = scope.spawn(work)));
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn url(&self, name: &str) -> String {
        let path = format!("{}/resolve/{}/{}", self.repo.page(), self.commit, encoded(name, true));
        self.client.url(&path)
    }

    fn explain(&self, entry: &Entry, failure: &Failure) -> Error {
        failure.explain(self.settings, self.repo, Some(&entry.name))
    }

    fn file(&self, entry: &Entry, tally: &Tally) -> Result<()> {
        let entry = &self.described(entry)?;
        let Some(etag) = &entry.etag else {
            let (repo, name, host) = (self.repo, &entry.name, self.settings.host());
            return Err(Error::other(format!("{repo}: {name}: {host} gives no usable ETag for it: is it a Hub?")));
        };
        let blob = self.cache.blob(etag);
        create_parent(&blob)?;
        {
            let _lock = self.cache.lock(etag)?;
            if !blob.exists() {
                self.blob(entry, &self.cache.incomplete(etag), &blob, tally)?;
            }
        }
        self.cache.link(self.commit, &entry.name, etag)
    }

    /// Asks the server for what its list of files does not say: some mirrors give names only.
    fn described(&self, entry: &Entry) -> Result<Entry> {
        if entry.etag.is_some() {
            return Ok(entry.clone());
        }
        let (_, headers) =
            self.client.file(&self.url(&entry.name), Ask::Head).map_err(|failure| self.explain(entry, &failure))?;
        let first = |names: [&str; 2]| names.iter().find_map(|name| text_of(&headers, name));
        let size = first(["x-linked-size", "content-length"]).and_then(|size| size.parse().ok());
        let etag = first(["x-linked-etag", "etag"]);
        Ok(Entry { size: entry.size.or(size), ..entry.clone() }.with_etag(etag.as_deref()))
    }

    /// Downloads into `incomplete`, checks it, and renames it.
    fn blob(&self, entry: &Entry, incomplete: &Path, blob: &Path, tally: &Tally) -> Result<()> {
        let mut resumed = incomplete.exists();
        loop {
            let size = self.body(entry, incomplete, tally)?;
            let right = match &entry.checksum {
                Some(checksum) => checksum.is_of(incomplete).context(incomplete.display())?,
                None => true,
            };
            if right {
                // Without locks, another process may have been faster.
                return fs::rename(incomplete, blob)
                    .or_else(|e| if blob.exists() { Ok(()) } else { Err(e) })
                    .context(blob.display());
            }
            fs::remove_file(incomplete).context(incomplete.display())?;
            if !resumed {
                let (repo, name, host) = (self.repo, &entry.name, self.settings.host());
                return Err(Error::other(format!(
                    "{repo}: {name}: what {host} sent has a wrong checksum and was removed: run the command again; if \
                     the error stays, a proxy or a mirror changes the file"
                )));
            }
            // What was left of an earlier download was damaged.
            resumed = false;
            tally.bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Continues the file `path` until it is complete; returns its size.
    fn body(&self, entry: &Entry, path: &Path, tally: &Tally) -> Result<u64> {
        let open = File::options().create(true).truncate(false).write(true).open(path);
        let mut file = open.context(path.display())?;
        let mut at = file.metadata().context(path.display())?.len();
        if entry.size.is_some_and(|size| at > size) {
            file.set_len(0).context(path.display())?;
            at = 0;
        }
        tally.bytes.fetch_add(at, Ordering::Relaxed);
        let mut failures = 0;
        while entry.size != Some(at) {
            let before = at;
            match self.part(entry, (&mut file, path), &mut at, tally) {
                Ok(()) => break,
                Err(Stop::Final(e)) => return Err(e),
                Err(Stop::Again(failure)) => {
                    failures = if at > before { 1 } else { failures + 1 };
                    if failures >= ATTEMPTS {
                        return Err(self.explain(entry, &failure));
                    }
                    self.client.wait(failures, None, &failure);
                }
            }
        }
        Ok(at)
    }

    /// Makes one request for the bytes from `at` on, and moves `at` as they are written.
    fn part(&self, entry: &Entry, (file, path): (&mut File, &Path), at: &mut u64, tally: &Tally) -> Result<(), Stop> {
        let broken = |e: Failure| match e {
            Failure::Broken(_) => Stop::Again(e),
            _ => Stop::Final(self.explain(entry, &e)),
        };
        let of_disk = |e: std::io::Error| Stop::Final(Error::from(e).context(path.display()));
        let (mut response, _) = self.client.file(&self.url(&entry.name), Ask::From(*at)).map_err(broken)?;
        let starts_at = |range: String| range.trim_start_matches("bytes ").split('-').next()?.parse().ok();
        let start = match response.status().as_u16() {
            206 => text_of(response.headers(), "content-range").and_then(starts_at).unwrap_or(*at),
            // The whole file: the server does not know ranges.
            200 => 0,
            // What is here is not a part of that file.
            416 => {
                restart(file, at, tally).map_err(of_disk)?;
                return Err(Stop::Again(Failure::Broken("the server does not have the rest of it".into())));
            }
            status => return Err(Stop::Final(self.explain(entry, &unexpected(status)))),
        };
        if start != *at {
            restart(file, at, tally).map_err(of_disk)?;
            if start != 0 {
                return Err(Stop::Again(Failure::Broken("the server sent another range".into())));
            }
        }
        let wrong_size = |found: u64, wanted: u64| {
            // Nothing of it is of use.
            _ = fs::remove_file(path);
            Stop::Final(Error::other(format!(
                "{}: {}: {} sends {found} bytes of a file of {wanted}: removed; run the command again; if the error \
                 stays, a proxy or a mirror changes the file",
                self.repo,
                entry.name,
                self.settings.host()
            )))
        };
        let announced = text_of(response.headers(), "content-length").and_then(|length| length.parse::<u64>().ok());
        if let (Some(wanted), Some(length)) = (entry.size, announced)
            && *at + length != wanted
        {
            return Err(wrong_size(*at + length, wanted));
        }
        file.seek(SeekFrom::Start(*at)).map_err(of_disk)?;
        let (mut body, mut buffer) = (response.body_mut().as_reader(), vec![0; CHUNK]);
        loop {
            if tally.failed.load(Ordering::Relaxed) {
                // The error of the other file is the one that is reported.
                return Err(Stop::Final(Error::other("another file failed")));
            }
            let read = body.read(&mut buffer).map_err(|e| Stop::Again(Failure::Broken(e.to_string())))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(of_disk)?;
            *at += read as u64;
            tally.bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        match entry.size {
            Some(wanted) if *at < wanted => Err(Stop::Again(Failure::Broken("it ended early".into()))),
            Some(wanted) if *at > wanted => Err(wrong_size(*at, wanted)),
            _ => Ok(()),
        }
    }
}

/// Empties a file, to begin again.
fn restart(file: &File, at: &mut u64, tally: &Tally) -> std::io::Result<()> {
    tally.bytes.fetch_sub(*at, Ordering::Relaxed);
    *at = 0;
    file.set_len(0)
}

fn unexpected(status: u16) -> Failure {
    Failure::Refused { status, code: String::new(), message: "not what a file is sent with".into() }
}
