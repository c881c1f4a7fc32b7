//! Collects the problems of a configuration, so that one message has them all.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// The name in messages for settings that are not in a file.
pub const COMMAND_LINE: &str = "command line";

/// Where a setting was written, in the order of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the file, counted from 1.
    Line(usize),
    /// An override.
    CommandLine,
    /// Nowhere: the setting is missing.
    Absent,
}

/// The problems so far, and where each setting was written.
#[derive(Debug)]
pub struct Problems {
    name: String,
    origins: HashMap<String, Origin>,
    found: Vec<(Origin, String, String)>,
}

impl Problems {
    /// Creates an empty collection for the file `name`.
    pub fn new(name: &str) -> Self {
        Problems { name: name.to_owned(), origins: HashMap::new(), found: Vec::new() }
    }

    /// Notes where `key` (dotted) was written; the last place counts.
    pub fn written(&mut self, key: &str, origin: Origin) {
        self.origins.insert(key.to_owned(), origin);
    }

    /// Returns whether `key` (dotted) was written.
    pub fn is_written(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Returns whether `key` (dotted) was last written on the command line.
    pub fn is_override(&self, key: &str) -> bool {
        self.origins.get(key) == Some(&Origin::CommandLine)
    }

    /// Forgets that `key` (dotted) was written.
    pub fn replaced(&mut self, key: &str) {
        self.origins.remove(key);
    }

    /// Adds a problem with a setting (dotted key), at the place where it was written.
    pub fn with(&mut self, key: &str, text: impl Into<String>) {
        let origin = self.origins.get(key).copied().unwrap_or(Origin::Absent);
        self.at(origin, key, text);
    }

    /// Adds a problem at a place.
    pub fn at(&mut self, origin: Origin, what: &str, text: impl Into<String>) {
        self.found.push((origin, what.to_owned(), text.into()));
    }

    /// Returns whether none of these settings has a problem so far.
    pub fn none_with(&self, keys: &[&str]) -> bool {
        !self.found.iter().any(|(_, key, _)| keys.contains(&key.as_str()))
    }

    /// Returns one error with a line for each problem, in the order of the file, if there are any.
    pub fn finish(&self) -> Result<()> {
        let mut found: Vec<_> = self.found.iter().collect();
        found.sort_by_key(|(origin, ..)| *origin);
        let lines: Vec<String> = found.into_iter().map(|problem| self.line(problem)).collect();
        Err(Error::input(match lines.as_slice() {
            [] => return Ok(()),
            [line] => line.clone(),
            _ => format!("{} problems in the configuration:\n  {}", lines.len(), lines.join("\n  ")),
        }))
    }

    fn line(&self, (origin, what, text): &(Origin, String, String)) -> String {
        let place = match origin {
            Origin::Line(line) => format!("{}:{line}", self.name),
            Origin::CommandLine => COMMAND_LINE.to_owned(),
            Origin::Absent => self.name.clone(),
        };
        if what.is_empty() { format!("{place}: {text}") } else { format!("{place}: {what}: {text}") }
    }
}
