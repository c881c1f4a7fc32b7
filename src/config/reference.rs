//! Text that is generated from the declarations of the settings: a configuration as TOML, and the reference of keys.

use super::keys::{DefaultValue, Key, Section, dotted};
use super::other_tool_keys::{self, Place};
use super::sections::{Config, columns};
use super::source;
use crate::error::{Error, Result};

impl Key {
    /// Returns the type and range, in Markdown.
    pub(super) fn type_name(&self) -> String {
        self.check.map_or_else(self.kind, |(range, _)| range.to_owned())
    }

    /// Returns the default, in Markdown.
    pub(super) fn default_text(&self) -> String {
        match self.default {
            DefaultValue::Required => "required".into(),
            DefaultValue::Value(value) => format!("`{}`", show(&value())),
            DefaultValue::Unset(words) => words.into(),
        }
    }

    /// Returns the first sentence of the description, as plain text.
    pub(super) fn summary(&self) -> String {
        let help = self.help.trim();
        plain(help.split_inclusive(". ").next().unwrap_or(help).trim_end())
    }
}

impl Config {
    /// Returns all settings as TOML, defaults included, in the order of the documentation. It parses back to an equal
    /// `Config`; an optional setting without a value is a comment.
    pub fn to_toml(&self) -> String {
        self.write(|_| String::new())
    }

    /// Returns [`to_toml`](Self::to_toml) with a comment for each setting: its summary and its default.
    pub fn to_commented_toml(&self) -> String {
        self.write(|key| match key.default {
            DefaultValue::Required => format!("# {} Required.\n", key.summary()),
            _ => format!("# {} Default: {}\n", key.summary(), plain(&key.default_text())),
        })
    }

    fn write(&self, comment: impl Fn(&Key) -> String) -> String {
        let mut out = String::new();
        let mut section = "";
        for (key, value) in self.settings() {
            if key.section != section {
                section = key.section;
                out += &format!("\n[{section}]\n");
            }
            out += &comment(key);
            out += &match value {
                Some(value) => format!("{} = {}\n", key.name, show(&value)),
                None => format!("# {} =\n", key.name),
            };
        }
        out
    }

    /// Returns the settings of `other` that differ: (dotted key, mine, other's), values as in TOML or `unset`, in the
    /// order of the documentation.
    pub fn differences(&self, other: &Config) -> Vec<(String, String, String)> {
        let show = |value: Option<toml::Value>| value.map_or_else(|| "unset".to_owned(), |value| show(&value));
        self.settings()
            .zip(other.settings())
            .filter(|((_, mine), (_, theirs))| mine != theirs)
            .map(|((key, mine), (_, theirs))| (key.dotted(), show(mine), show(theirs)))
            .collect()
    }

    /// Returns each key with its value, if it has one.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&'static Key, Option<toml::Value>)> + use<> {
        let mut table = toml::Table::try_from(self).expect("whatever was read from TOML can be written as TOML");
        // It follows from the sources.
        let data = table.get_mut("data").and_then(toml::Value::as_table_mut);
        if let Some(data) = data.filter(|_| !self.data.sources.is_empty()) {
            data.remove("train");
        }
        Config::keys().into_iter().map(move |key| {
            let table = if key.section.is_empty() { Some(&table) } else { table[key.section].as_table() };
            (key, table.and_then(|table| table.get(key.name)).cloned())
        })
    }
}

/// Returns the names of all keys that need no section, and with their section all others.
pub fn names() -> impl Iterator<Item = String> {
    source::all().map(|(section, name)| match source::resolve(name, source::all()) {
        Ok(Some(found)) if found == dotted(section, name) => name.to_owned(),
        _ => dotted(section, name),
    })
}

/// Returns the dotted name of a key that is written with or without its section.
///
/// # Errors
/// An input error for an unknown key, with the most similar one.
pub fn full_name(name: &str) -> Result<String> {
    let (section, bare) = name.rsplit_once('.').unwrap_or(("", name));
    let unknown = || source::unknown_key(section, bare, None, Place::File);
    let dotted = source::resolve(name, source::all()).and_then(|found| found.ok_or_else(unknown));
    dotted.map_err(|problem| Error::input(format!("{name}: {problem}")))
}

/// Returns the reference of a key, written with or without its section: labels and plain text, which may be long; the
/// description has no label.
///
/// # Errors
/// An input error for an unknown key, with the most similar one.
pub fn explain(name: &str) -> Result<Vec<(&'static str, String)>> {
    let dotted = full_name(name)?;
    let key = Config::keys().into_iter().find(|key| key.dotted() == dotted).expect("a key that was found");
    let others = other_tool_keys::names(&dotted).join(", ");
    let row =
        |column: &&Key| format!(" {} ({}): {}", column.name, plain(&column.default_text()), plain(column.help.trim()));
    let rows: Vec<String> = columns(&dotted).iter().map(row).collect();
    let rows = if rows.is_empty() { String::new() } else { format!(" Keys of a table:{}", rows.join("")) };
    let lines = vec![
        ("Key", key.name.to_owned()),
        ("Section", if key.section.is_empty() { "none (top level)".into() } else { format!("[{}]", key.section) }),
        ("Type", plain(&key.type_name())),
        ("Default", plain(&key.default_text())),
        ("Other tools", others),
        ("", plain(key.help.trim()) + &rows),
    ];
    Ok(lines.into_iter().filter(|(_, text)| !text.is_empty()).collect())
}

/// Returns a line for each key, of at most 80 columns, by section.
pub fn list() -> String {
    let keys = Config::keys();
    let mut out = String::new();
    let mut section = "";
    for key in &keys {
        if key.section != section {
            section = key.section;
            out += &format!("\n[{section}]\n");
        }
        let names = keys.iter().filter(|other| other.section == section).map(|key| key.name.len());
        out += &format!("  {:width$}  {}\n", key.name, key.summary(), width = names.max().unwrap_or(0));
    }
    out
}

/// Returns Markdown as plain text, with the paths of linked pages.
fn plain(markdown: &str) -> String {
    let mut out = String::new();
    let text = markdown.replace('`', "");
    let mut rest = text.as_str();
    while let Some((before, label, target, after)) = link(rest) {
        let page = if target.starts_with('#') { "configuration.md" } else { "" };
        out += &format!("{before}{label}: docs/{page}{target}");
        rest = after;
    }
    out + rest
}

/// Splits a text at its first link: what is before it, its label, its target, and what is after it.
fn link(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (head, tail) = text.split_once("](")?;
    let (target, after) = tail.split_once(')')?;
    // A label may be in brackets itself: `[[generation]](#generation)`.
    let start = if head.ends_with(']') { head.rfind("[[")? } else { head.rfind('[')? };
    Some((&head[..start], &head[start + 1..], target, after))
}

/// Returns a value as TOML, with `5e-5` rather than `0.00005`.
fn show(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(float) => format!("{float:?}"),
        other => other.to_string(),
    }
}
