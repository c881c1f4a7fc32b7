//! Filters records that are found invalid after reading.

use crate::error::Result;
use crate::text::files::Files;
use crate::text::records::{self, OnBad};

/// Removes the invalid records of files and collects line and reason of each.
pub(super) struct RecordFilter<'a> {
    files: &'a Files,
    on_bad: OnBad,
    labelled: bool,
    /// Line and reason of every invalid record so far.
    pub bad: Vec<(usize, String)>,
}

impl<'a> RecordFilter<'a> {
    /// Creates a filter for files; `bad` are the records found invalid on reading; `labelled` as in
    /// [`records::check_bad`].
    pub fn new(files: &'a Files, on_bad: OnBad, labelled: bool, bad: Vec<(usize, String)>) -> Self {
        RecordFilter { files, on_bad, labelled, bad }
    }

    /// Returns the valid values of (line, value or reason), in order; fails as [`records::check_bad`] does.
    pub fn keep<T>(&mut self, results: impl Iterator<Item = (usize, Result<T, String>)>) -> Result<Vec<T>> {
        let mut good = Vec::new();
        for (line, result) in results {
            match result {
                Ok(value) => good.push(value),
                Err(why) => self.bad.push((line, why)),
            }
        }
        records::check_bad(self.files, self.on_bad, self.labelled, good.len(), &self.bad)?;
        Ok(good)
    }
}
