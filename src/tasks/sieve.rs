//! Records that turn out to be bad after they were read.

use crate::error::Result;
use crate::text::records::{self, OnBad};
use std::path::Path;

/// Takes bad records out of a file's, and knows line and reason of all of them.
pub(super) struct Sieve<'a> {
    path: &'a Path,
    on_bad: OnBad,
    labelled: bool,
    /// Line and reason of every bad one so far.
    pub bad: Vec<(usize, String)>,
}

impl<'a> Sieve<'a> {
    /// For a file of which `bad` were bad already when it was read; `labelled` as in [`records::check_bad`].
    pub fn new(path: &'a Path, on_bad: OnBad, labelled: bool, bad: Vec<(usize, String)>) -> Self {
        Sieve { path, on_bad, labelled, bad }
    }

    /// What is good of (line, result or reason), in order.
    ///
    /// # Errors
    /// As [`records::check_bad`]: bad ones, unless they are to be skipped; nothing good.
    pub fn keep<T>(&mut self, results: impl Iterator<Item = (usize, Result<T, String>)>) -> Result<Vec<T>> {
        let mut good = Vec::new();
        for (line, result) in results {
            match result {
                Ok(value) => good.push(value),
                Err(why) => self.bad.push((line, why)),
            }
        }
        records::check_bad(self.path, self.on_bad, self.labelled, good.len(), &self.bad)?;
        Ok(good)
    }
}
