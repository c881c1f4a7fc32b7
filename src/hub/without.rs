//! What [`Hub`](super::Hub) is in a program without the Cargo feature `hub`.

use super::repo::Repo;
use super::settings::Settings;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The Hub, which this program was built without.
pub struct Hub;

impl Hub {
    /// # Errors
    /// None.
    pub fn new(_: Settings) -> Result<Self> {
        Ok(Hub)
    }

    /// # Errors
    /// Exit 2, always.
    pub fn model(&self, repo: &Repo, _: bool) -> Result<PathBuf> {
        Err(absent(&format!("{repo}: no such local folder")))
    }

    /// # Errors
    /// Exit 2, always.
    pub fn data(&self, text: &str) -> Result<Vec<PathBuf>> {
        Err(absent(text))
    }

    /// Nothing to do.
    pub fn settle(&self) {}

    /// # Errors
    /// Exit 2, always.
    pub fn push(&self, folder: &Path, _: &Repo, _: bool) -> Result<String> {
        Err(absent(&folder.display().to_string()))
    }
}

fn absent(what: &str) -> Error {
    Error::input(format!("{what}: this program was built without the feature hub, so it knows no Hugging Face Hub"))
}
