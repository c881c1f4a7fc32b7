//! [`Hub`]: models and data files by name, from the Hub or from the cache.

use super::cache::Cache;
use super::client::Client;
use super::failure::Failure;
use super::files::{self, Weights};
use super::listing::{Entry, Listing};
use super::repo::Repo;
use super::settings::Settings;
use super::transfer::Transfer;
use crate::error::{Error, Result};
use crate::observe::logs::warn;
use crate::observe::rank_of_environment;
use glob::{MatchOptions, Pattern};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files that a message names.
const SHOWN: usize = 5;

/// The Hub and its cache.
pub struct Hub {
    pub(super) settings: Settings,
    pub(super) client: Client,
    /// What was found before, so that a process asks for it once.
    found: Mutex<HashMap<Wanted, Vec<PathBuf>>>,
    listings: Mutex<HashMap<Repo, Option<Arc<Listing>>>>,
    settled: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Wanted {
    Model { repo: Repo, weights: bool },
    Data(String),
}

impl Hub {
    /// # Errors
    /// Exit 2: a file of certificates (`SSL_CERT_FILE`) that cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        let client = Client::new(&settings)?;
        Ok(Hub {
            settings,
            client,
            found: Mutex::default(),
            listings: Mutex::default(),
            settled: AtomicBool::new(false),
        })
    }

    /// Returns the folder of a model in the cache, and downloads what it lacks: configurations, tokenizer and chat
    /// template, and the `weights` if they are wanted; those of an adapter always.
    ///
    /// # Errors
    /// Exit 2: no such model, or no access to it; no model of `transformers`; not in the cache, and offline. Exit 1: no
    /// network, a rate limit, a broken connection, a wrong checksum, a full disk.
    pub fn model(&self, repo: &Repo, weights: bool) -> Result<PathBuf> {
        let wanted = |weights| Wanted::Model { repo: repo.clone(), weights };
        let before = [weights, true].into_iter().find_map(|weights| self.before(&wanted(weights)));
        if let Some(folder) = before.and_then(|paths| paths.into_iter().next()) {
            return Ok(folder);
        }
        let cache = Cache::of(&self.settings.cache, repo);
        let folder = match self.settled().then(|| self.cached_model(repo, &cache, weights)) {
            Some(Ok(folder)) => folder,
            _ => match self.listing(repo, &cache)? {
                Some(listing) => self.download_model(repo, &cache, &listing, weights)?,
                None => self.cached_model(repo, &cache, weights)?,
            },
        };
        locked(&self.found).insert(wanted(weights), vec![folder.clone()]);
        Ok(folder)
    }

    /// Returns the files of `hf://datasets/ORG/NAME[@REVISION]/PATH` in the cache, and downloads what is missing.
    /// `PATH` is a file or a pattern (`*`, `?`, `[abc]`, `**`), whose files are sorted by name.
    ///
    /// # Errors
    /// Exit 2: another form, no such data set or file. Otherwise as [`Hub::model`].
    pub fn data(&self, text: &str) -> Result<Vec<PathBuf>> {
        let wanted = Wanted::Data(text.to_owned());
        if let Some(paths) = self.before(&wanted) {
            return Ok(paths);
        }
        let read = Repo::data(text).unwrap_or_else(|| Err(Error::input(format!("{text}: not of the form hf://..."))));
        let (repo, path) = read?;
        let cache = Cache::of(&self.settings.cache, &repo);
        let (commit, chosen) = match self.settled().then(|| self.cached_data(text, &repo, &cache, &path)) {
            Some(Ok(found)) => found,
            _ => match self.listing(&repo, &cache)? {
                Some(listing) => {
                    let chosen = chosen(text, &path, &listing.names(), self.settings.host())?;
                    let entries: Vec<&Entry> = chosen.iter().filter_map(|name| listing.entry(name)).collect();
                    self.transfer(&repo, &cache, &listing.commit).run(&entries, true)?;
                    cache.set_commit(&repo.revision, &listing.commit)?;
                    (listing.commit.clone(), chosen)
                }
                None => {
                    let found = self.cached_data(text, &repo, &cache, &path)?;
                    if found.1 != [path] && rank_of_environment() == 0 {
                        let count = found.1.len();
                        warn(&format!("{text}: without the Hub, only the cache is searched: {count} files match"));
                    }
                    found
                }
            },
        };
        let paths: Vec<PathBuf> = chosen.iter().map(|name| cache.snapshot(&commit).join(name)).collect();
        locked(&self.found).insert(wanted, paths.clone());
        Ok(paths)
    }

    /// From now on what the cache has is taken as it is: another rank has just asked the Hub.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    fn settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    fn before(&self, wanted: &Wanted) -> Option<Vec<PathBuf>> {
        locked(&self.found).get(wanted).cloned()
    }

    /// Returns the files of a revision; `None` if only the cache is to be used, because the user says so, or because
    /// the network does not work and the cache knows the revision.
    fn listing(&self, repo: &Repo, cache: &Cache) -> Result<Option<Arc<Listing>>> {
        if self.settings.offline.is_some() {
            return Ok(None);
        }
        if let Some(known) = locked(&self.listings).get(repo) {
            return Ok(known.clone());
        }
        let path = format!("{}/revision/{}?blobs=true", repo.api(), repo.revision_in_url());
        let listing = match self.client.json(&self.client.url(&path)) {
            Ok(json) => Some(Arc::new(Listing::read(&json).ok_or_else(|| {
                let host = self.settings.host();
                Error::other(format!("{repo}: {host} does not list its files as the Hub does: check HF_ENDPOINT"))
            })?)),
            Err(failure @ (Failure::Unreachable(_) | Failure::Broken(_))) if cache.commit(&repo.revision).is_some() => {
                if rank_of_environment() == 0 {
                    let host = self.settings.host();
                    warn(&format!("{repo}: {host}: {failure}; what the cache has is used, which may be older"));
                }
                None
            }
            Err(failure) => return Err(failure.explain(&self.settings, repo, None)),
        };
        locked(&self.listings).insert(repo.clone(), listing.clone());
        Ok(listing)
    }

    fn download_model(&self, repo: &Repo, cache: &Cache, listing: &Listing, weights: bool) -> Result<PathBuf> {
        let names = listing.names();
        let refuse = |why: &str| Err(Error::input(format!("{repo}: {why}")));
        if !files::is_model(&names) {
            return refuse("neither config.json nor adapter_config.json: not a model in the format of transformers");
        }
        let transfer = self.transfer(repo, cache, &listing.commit);
        let mut wanted: Vec<String> =
            names.iter().filter(|name| files::is_beside_weights(name)).map(|name| (*name).to_owned()).collect();
        if weights || files::is_adapter(&names) {
            match files::weights(&names) {
                Some(Weights::Files(found)) => wanted.extend(found),
                Some(Weights::Index(index)) => {
                    let entry: Vec<&Entry> = listing.entry(&index).into_iter().collect();
                    transfer.run(&entry, false)?;
                    wanted.extend(files::of_index(&cache.snapshot(&listing.commit).join(&index))?);
                }
                None => {
                    return refuse(
                        "no weights that are read: model.safetensors or pytorch_model.bin, in one file or several",
                    );
                }
            }
        }
        let entry = |name: &String| {
            let absent = || Error::input(format!("{repo}: {name} is missing, and the index of the weights names it"));
            listing.entry(name).ok_or_else(absent)
        };
        let entries = wanted.iter().map(entry).collect::<Result<Vec<&Entry>>>()?;
        transfer.run(&entries, true)?;
        cache.set_commit(&repo.revision, &listing.commit)?;
        Ok(cache.snapshot(&listing.commit))
    }

    /// Returns the folder of a model that is in the cache.
    fn cached_model(&self, repo: &Repo, cache: &Cache, weights: bool) -> Result<PathBuf> {
        let absent = |file: &str| self.absent(repo, cache, file);
        let commit = cache.commit(&repo.revision).ok_or_else(|| absent("config.json"))?;
        let folder = cache.snapshot(&commit);
        let names = cache.names(&commit);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if !files::is_model(&names) {
            return Err(absent("config.json"));
        }
        if weights || files::is_adapter(&names) {
            let needed = match files::weights(&names) {
                Some(Weights::Index(index)) => files::of_index(&folder.join(index))?,
                Some(Weights::Files(_)) => Vec::new(),
                None => return Err(absent("model.safetensors")),
            };
            if let Some(file) = needed.iter().find(|name| !names.contains(&name.as_str())) {
                return Err(absent(file));
            }
        }
        Ok(folder)
    }

    /// Returns the commit and the files of a pattern that are in the cache.
    fn cached_data(&self, text: &str, repo: &Repo, cache: &Cache, path: &str) -> Result<(String, Vec<String>)> {
        let absent = || self.absent(repo, cache, path);
        let commit = cache.commit(&repo.revision).ok_or_else(absent)?;
        let names = cache.names(&commit);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let chosen = chosen(text, path, &names, "the cache").map_err(|_| absent())?;
        Ok((commit, chosen))
    }

    /// The error for a file that is not in the cache.
    fn absent(&self, repo: &Repo, cache: &Cache, file: &str) -> Error {
        let folder = cache.root.display();
        let why = match self.settings.offline {
            Some(variable) => format!("{variable} is set: unset it to download"),
            None => format!("{} cannot be reached: check the network to download", self.settings.host()),
        };
        Error::input(format!(
            "{repo}: {file} is not in the cache ({folder}), and {why} it, or download it on another machine (`hf \
             download {}`) and copy the cache",
            repo.id
        ))
    }

    fn transfer<'a>(&'a self, repo: &'a Repo, cache: &'a Cache, commit: &'a str) -> Transfer<'a> {
        Transfer { client: &self.client, settings: &self.settings, repo, cache, commit }
    }
}

/// Returns the files that a path or pattern names, sorted.
fn chosen(text: &str, path: &str, names: &[&str], place: &str) -> Result<Vec<String>> {
    if names.contains(&path) {
        return Ok(vec![path.to_owned()]);
    }
    if path.contains(['*', '?', '[']) {
        let pattern =
            Pattern::new(path).map_err(|e| Error::input(format!("{text}: not a valid pattern: {}", e.msg)))?;
        let options =
            MatchOptions { require_literal_separator: true, require_literal_leading_dot: true, ..MatchOptions::new() };
        let mut found: Vec<String> =
            names.iter().filter(|name| pattern.matches_with(name, options)).map(|name| (*name).to_owned()).collect();
        found.sort();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let within = |name: &&str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    if names.iter().any(within) {
        return Err(Error::input(format!("{text}: a folder: name its files, or use a pattern: {text}/*.parquet")));
    }
    let shown: Vec<&str> = names.iter().filter(|name| !name.starts_with('.')).take(SHOWN).copied().collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    Err(Error::input(format!("{text}: no such file; {place} has {}{more}", shown.join(", "))))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
