//! The problems of a configuration, collected so that one message tells them all.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// How messages name settings that come from no file.
pub const COMMAND_LINE: &str = "command line";

/// Where a setting was written. The order is that of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// An override.
    CommandLine,
    /// Nowhere: the setting is missing.
    Absent,
}

/// What is wrong so far, and where each setting was written.
#[derive(Debug)]
pub struct Problems {
    name: String,
    origins: HashMap<String, Origin>,
    found: Vec<(Origin, String, String)>,
}

impl Problems {
    /// None so far, in the file `name`.
    pub fn new(name: &str) -> Self {
        Problems { name: name.to_owned(), origins: HashMap::new(), found: Vec::new() }
    }

    /// Remembers where `key` (dotted) was written; the last place counts.
    pub fn written(&mut self, key: &str, origin: Origin) {
        self.origins.insert(key.to_owned(), origin);
    }

    /// Whether `key` (dotted) was written at all.
    pub fn is_written(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// A problem with a setting (dotted key), placed where that was written.
    pub fn with(&mut self, key: &str, text: impl Into<String>) {
        let origin = self.origins.get(key).copied().unwrap_or(Origin::Absent);
        self.at(origin, key, text);
    }

    /// A problem with what was written at some place.
    pub fn at(&mut self, origin: Origin, what: &str, text: impl Into<String>) {
        self.found.push((origin, what.to_owned(), text.into()));
    }

    /// Whether nothing is wrong so far with any of these settings.
    pub fn none_with(&self, keys: &[&str]) -> bool {
        !self.found.iter().any(|(_, key, _)| keys.contains(&key.as_str()))
    }

    /// Nothing, or one error with a line for each problem, in the order of the file.
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
