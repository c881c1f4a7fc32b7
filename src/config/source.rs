//! What was written, in the file and on the command line: entries by dotted key, and the problem of each name that is
//! not one.

use std::borrow::Cow;
use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::foreign::{self, Place};
use super::problems::{Origin, Problems};
use super::raw::{KEYS, Raw, dotted};
use super::value::{FromToml, describe};
use crate::error::Result;

/// What was written for the known keys.
#[derive(Debug)]
pub struct Entries<'a>(HashMap<String, Entry<'a>>);

#[derive(Debug)]
struct Entry<'a> {
    value: DeValue<'a>,
    /// The value of an override, letter by letter.
    text: Option<&'a str>,
}

impl Entries<'_> {
    /// The setting of this dotted key, `None` if it is missing or of a wrong type, which is noted.
    pub fn read<T: FromToml>(&self, key: &str, problems: &mut Problems) -> Option<T> {
        let entry = self.0.get(key)?;
        let as_written = || T::read(&DeValue::String(Cow::Borrowed(entry.text?))).ok();
        match T::read(&entry.value) {
            Ok(value) => Some(value),
            // `output_dir=2024-01-31` means a folder, although it reads as a TOML date.
            Err(text) => as_written().or_else(|| {
                problems.with(key, text);
                None
            }),
        }
    }
}

/// The entries of a file's text, replaced by those of the `key=value` overrides. An error only for a text that is not
/// TOML: the rest could not be trusted then.
pub fn entries<'a>(text: &'a str, overrides: &'a [String], problems: &mut Problems) -> Result<Entries<'a>> {
    let mut entries = HashMap::new();
    let line = |offset: usize| Origin::Line(text[..offset].matches('\n').count() + 1);
    let (table, errors) = DeTable::parse_recoverable(text);
    let origin = |error: &toml::de::Error| error.span().map_or(Origin::Absent, |span| line(span.start));
    if let (Some(first), Some(language)) = (errors.first(), other_language(text)) {
        let told = "and a configuration is TOML: key = value, under [section] lines";
        problems.at(origin(first), "", format!("this looks like {language}, {told}"));
        for (number, name, told) in foreign_lines(text) {
            problems.at(Origin::Line(number), name, told);
        }
        problems.finish()?;
    }
    for error in &errors {
        problems.at(origin(error), "", format!("not valid TOML: {}", error.message().replace('\n', "; ")));
    }
    problems.finish()?;
    for (key, value) in table.into_inner() {
        let origin = line(key.span().start);
        let name = key.into_inner();
        if KEYS[0].1.contains(&&*name) {
            problems.written(&name, origin);
            entries.insert(name.into_owned(), Entry { value: value.into_inner(), text: None });
        } else if let Some((section, _)) = KEYS.iter().find(|(section, _)| *section == name) {
            match value.into_inner() {
                DeValue::Table(table) => of_section(section, table, line, &mut entries, problems),
                other => problems.at(origin, section, not_a_section(section, &other)),
            }
        } else {
            match value.get_ref() {
                DeValue::Table(table) => of_unknown_section(&name, table, origin, line, problems),
                value => problems.at(origin, &name, unknown_key("", &name, Some(value), Place::File)),
            }
        }
    }
    let mut rest = overrides;
    while let [item, after @ ..] = rest {
        rest = after;
        if let Some((key, value, words)) = spaced(item, after) {
            rest = &after[words..];
            problems.at(Origin::CommandLine, key, format!("write {key}={value}, without spaces"));
            // It was meant: not to be missed as well.
            if let Ok(Some(name)) = resolve(key, KEYS) {
                problems.written(&name, Origin::CommandLine);
            }
        } else {
            of_override(item, &mut entries, problems);
        }
    }
    Ok(Entries(entries))
}

/// Of a text in YAML or JSON, what is known of its keys from elsewhere: the line, the key, and what to do.
fn foreign_lines(text: &str) -> Vec<(usize, &str, String)> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let Some((name, value)) = line.trim_start_matches([' ', '-', '{']).split_once(':') else { continue };
        let name = name.trim().trim_matches(['"', '\'']);
        let value = value.split(" #").next().unwrap_or_default().trim().trim_end_matches(',');
        let nested = value.is_empty() || value.starts_with(['{', '[', '#', '|', '>']);
        let parsed = || DeValue::parse(value).map_or(DeValue::String(Cow::Borrowed(value)), Spanned::into_inner);
        let value = (!nested).then(parsed);
        found.extend(foreign::advice("", name, value.as_ref(), Place::File).map(|told| (number, name, told)));
    }
    found
}

/// Whether a value is one for this key, as far as its type goes.
pub fn fits(key: &str, value: &DeValue<'_>) -> bool {
    let mut problems = Problems::new("");
    let entry = Entry { value: value.clone(), text: None };
    _ = Raw::read(&Entries(HashMap::from([(key.to_owned(), entry)])), &mut problems);
    problems.finish().is_ok()
}

/// A plain value, or a list of such, as TOML has it.
pub fn written(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| written(item.get_ref())).collect();
            format!("[{}]", items?.join(", "))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

/// The language in which a text that is not TOML seems to be written, by its first line that is not a comment.
fn other_language(text: &str) -> Option<&'static str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    match first.split_once(':') {
        _ if first.starts_with('{') => Some("JSON"),
        Some((name, value)) if is_name(name) && (value.is_empty() || value.starts_with(' ')) => Some("YAML"),
        _ => (first == "---").then_some("YAML"),
    }
}

/// What is wrong with settings that are written as options, `--learning_rate 3e-5` or `--learning-rate=3e-5`, among the
/// words of a command line: ours, and those that are known from elsewhere. `known` are options of the command.
pub fn options(words: &[String], known: &[&str], problems: &mut Problems) {
    for (word, next) in words.iter().zip(words.iter().skip(1).map(Some).chain([None])) {
        let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) else { continue };
        let (name, text) = match (option.split_once('='), next) {
            (Some((name, text)), _) => (name, text),
            (None, Some(next)) if !next.starts_with("--") => (option, next.as_str()),
            (None, _) => (option, "true"),
        };
        if known.contains(&name) {
            continue;
        }
        let key = name.replace('-', "_");
        let value = DeValue::parse(text).map_or(DeValue::String(Cow::Borrowed(text)), Spanned::into_inner);
        let (section, bare) = key.rsplit_once('.').unwrap_or(("", &key));
        let told = match resolve(&key, KEYS) {
            Ok(Some(_)) => Some(format!("write {key}={text}")),
            Ok(None) => foreign::advice(section, bare, Some(&value), Place::CommandLine),
            Err(several) => Some(several),
        };
        if let Some(told) = told {
            problems.at(Origin::CommandLine, &format!("--{name}"), told);
        }
    }
}

/// `key = value` that the shell took apart: the key, the value, and how many of the words after `item` belong to it.
fn spaced<'a>(item: &'a str, after: &'a [String]) -> Option<(&'a str, &'a str, usize)> {
    match (item.split_once('='), after) {
        (None, [equals, value, ..]) if equals == "=" => Some((item, value, 2)),
        (None, [value, ..]) if value.starts_with('=') && value.len() > 1 => Some((item, &value[1..], 1)),
        (Some((key, "")), [value, ..]) if !key.is_empty() && !value.contains('=') => Some((key, value, 1)),
        _ => None,
    }
}

fn of_section<'a>(
    section: &str,
    table: DeTable<'a>,
    line: impl Fn(usize) -> Origin,
    entries: &mut HashMap<String, Entry<'a>>,
    problems: &mut Problems,
) {
    for (key, value) in table {
        let origin = line(key.span().start);
        let name = dotted(section, key.get_ref());
        if is_key(&name) {
            problems.written(&name, origin);
            entries.insert(name, Entry { value: value.into_inner(), text: None });
        } else {
            let told = unknown_key(section, key.get_ref(), Some(value.get_ref()), Place::File);
            problems.at(origin, &name, told);
        }
    }
}

/// The section, and those of its keys that are known from elsewhere or from here.
fn of_unknown_section(
    section: &str,
    table: &DeTable<'_>,
    origin: Origin,
    line: impl Fn(usize) -> Origin,
    problems: &mut Problems,
) {
    problems.at(origin, section, unknown_section(section, table));
    for (key, value) in table {
        let (name, value) = (key.get_ref(), value.get_ref());
        let own =
            || all(KEYS).any(|(_, key)| key == name).then(|| unknown_key(section, name, Some(value), Place::File));
        if let Some(told) = foreign::advice(section, name, Some(value), Place::File).or_else(own) {
            problems.at(line(key.span().start), &dotted(section, name), told);
        }
    }
}

fn of_override<'a>(item: &'a str, entries: &mut HashMap<String, Entry<'a>>, problems: &mut Problems) {
    let Some((written, text)) = item.split_once('=') else {
        return problems.at(Origin::CommandLine, item, "expected key=value");
    };
    // A text may mean to end with a space, as a prefix does.
    let (written, text) = (written.trim(), text.trim_start());
    let value = DeValue::parse(text.trim_end()).map_or(DeValue::String(Cow::Borrowed(text)), Spanned::into_inner);
    match resolve(written, KEYS) {
        Ok(None) => {
            let (section, key) = written.rsplit_once('.').unwrap_or(("", written));
            let told = unknown_key(section, key, Some(&value), Place::CommandLine);
            problems.at(Origin::CommandLine, written, told);
        }
        Ok(Some(name)) => {
            problems.written(&name, Origin::CommandLine);
            entries.insert(name, Entry { value, text: Some(text) });
        }
        Err(problem) => problems.at(Origin::CommandLine, written, problem),
    }
}

/// The dotted key that an override means, if it is one: a bare key must be unique over the sections.
fn resolve(written: &str, keys: &[(&str, &[&str])]) -> Result<Option<String>, String> {
    let matching: Vec<String> = all(keys)
        .filter(|(section, key)| written == *key || written == dotted(section, key))
        .map(|(section, key)| dotted(section, key))
        .collect();
    match matching.as_slice() {
        [] => Ok(None),
        [key] => Ok(Some(key.clone())),
        _ if matching.iter().any(|key| key == written) => Ok(Some(written.to_owned())),
        _ => Err(format!("there are several keys of this name: write {}", matching.join(" or "))),
    }
}

fn all<'k>(keys: &'k [(&'k str, &'k [&'k str])]) -> impl Iterator<Item = (&'k str, &'k str)> + Clone {
    keys.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)))
}

fn is_key(name: &str) -> bool {
    all(KEYS).any(|(section, key)| dotted(section, key) == name)
}

/// Another trainer's name for a setting comes first. Then the nearest name counts, wherever it stands; between equally
/// near ones, the section that was written.
fn unknown_key(section: &str, key: &str, value: Option<&DeValue<'_>>, place: Place) -> String {
    if let Some(advice) = foreign::advice(section, key, value, place) {
        return advice;
    }
    let candidates = all(KEYS).filter(|(s, _)| *s == section).chain(all(KEYS).filter(|(s, _)| *s != section));
    match nearest(key, candidates.clone().map(|(_, key)| key)) {
        Some(near) => {
            let section = candidates.into_iter().find(|(_, key)| *key == near).map_or("", |(section, _)| section);
            format!("unknown key, did you mean {}?", dotted(section, near))
        }
        None => "unknown key, and no key has a similar name: docs/configuration.md lists all".to_owned(),
    }
}

fn unknown_section(name: &str, table: &DeTable<'_>) -> String {
    if let Some(advice) = foreign::advice("", name, Some(&DeValue::Table(table.clone())), Place::File) {
        return advice;
    }
    let sections = KEYS.iter().map(|(section, _)| *section).filter(|section| !section.is_empty());
    match nearest(name, sections.clone()) {
        Some(near) => format!("unknown section, did you mean [{near}]?"),
        None => format!("unknown section, expected one of [{}]", sections.collect::<Vec<_>>().join("], [")),
    }
}

fn not_a_section(name: &str, value: &DeValue<'_>) -> String {
    let key = all(KEYS).find(|(_, key)| *key == name).map(|(section, key)| dotted(section, key));
    let hint = key.map(|key| format!(" (did you mean {key}?)")).unwrap_or_default();
    format!("found {}, but [{name}] is a section of settings{hint}", describe(value))
}

/// The candidate most like `word`, the first of equals; `None` if none is at all like it.
pub fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_lowercase();
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(&word, candidate);
    let mut best = (0.5, None);
    for candidate in candidates {
        let likeness = likeness(candidate);
        if likeness > best.0 {
            best = (likeness, Some(candidate));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_key_must_be_unique() {
        let keys: &[(&str, &[&str])] = &[("", &["seed"]), ("a", &["path", "x"]), ("b", &["path"]), ("c", &["seed"])];
        let resolved = |written| resolve(written, keys).unwrap().unwrap();
        assert_eq!(resolve("y", keys), Ok(None));
        assert_eq!(resolved("x"), "a.x");
        assert_eq!(resolved("b.path"), "b.path");
        assert_eq!(resolve("path", keys).unwrap_err(), "there are several keys of this name: write a.path or b.path");
        // The top level's own key is spelled out already.
        assert_eq!(resolved("seed"), "seed");
        assert_eq!(resolved("c.seed"), "c.seed");
    }

    #[test]
    fn nearest_is_near_or_nothing() {
        assert_eq!(nearest("learning_rat", ["warmup_ratio", "learning_rate"].into_iter()), Some("learning_rate"));
        assert_eq!(nearest("Seed", ["seed"].into_iter()), Some("seed"));
        assert_eq!(nearest("zzz", ["seed", "eval"].into_iter()), None);
    }
}
