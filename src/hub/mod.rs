//! The Hugging Face Hub: models and data files by name, and uploads.
//!
//! A model is `org/name` or `org/name@revision`, unless a local path has this name ([`Repo::of_path`]); a data file is
//! `hf://datasets/org/name/path`. Both are downloaded to the cache that `huggingface_hub` has in Python, and taken from
//! there without a network. [`Hub`] does it for given [`Settings`]; the functions here do it for those of the
//! environment. Without the Cargo feature `hub` each of them is an error.

mod names;
mod repo;
mod settings;

#[cfg(not(feature = "hub"))]
mod without;

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod catalog;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod failure;
#[cfg(feature = "hub")]
mod files;
#[cfg(feature = "hub")]
mod hash;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
mod push;
#[cfg(feature = "hub")]
mod transfer;

#[cfg(all(test, feature = "hub"))]
mod tests;

#[cfg(feature = "hub")]
pub use catalog::Hub;
#[cfg(feature = "hub")]
pub use files::is_beside_weights;
pub use names::TOKENIZER_FILES;
pub use repo::{Kind, Repo};
pub use settings::Settings;
#[cfg(not(feature = "hub"))]
pub use without::Hub;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Returns the Hub that the environment names.
///
/// # Errors
/// As [`Settings::from_env`] and [`Hub::new`].
pub fn of_environment() -> Result<&'static Hub> {
    static HUB: OnceLock<Result<Hub>> = OnceLock::new();
    HUB.get_or_init(|| Settings::from_env().and_then(Hub::new)).as_ref().map_err(Error::clone)
}

/// From now on what the cache has is taken as it is ([`Hub::settle`]).
///
/// # Errors
/// As [`of_environment`].
pub fn settle() -> Result<()> {
    of_environment().map(Hub::settle)
}

/// Returns the local folder of a model: `path` itself, or for a name on the Hub the folder in the cache, with or
/// without the `weights`.
///
/// # Errors
/// As [`Hub::model`]; none for a local path.
pub fn model_folder(path: &Path, weights: bool) -> Result<PathBuf> {
    match Repo::of_path(path) {
        Some(repo) => of_environment()?.model(&repo, weights),
        None => Ok(path.to_owned()),
    }
}

/// Whether a setting of data files names files on the Hub.
pub fn is_data(path: &Path) -> bool {
    path.to_str().is_some_and(|text| Repo::data(text).is_some())
}

/// Returns the local files of a data file on the Hub, or of a pattern; `None` for a local path.
///
/// # Errors
/// As [`Hub::data`].
pub fn data_files(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    match path.to_str().filter(|_| is_data(path)) {
        Some(text) => of_environment()?.data(text).map(Some),
        None => Ok(None),
    }
}
