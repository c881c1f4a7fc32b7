//! Parses the file and the command line into entries by dotted key, and notes a problem for each unknown key.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Entries, Section, dotted};
use super::other_tool_keys::{self, Place};
use super::problems::{Origin, Problems};
use super::sections::Config;
use super::table_keys;
use super::value::{describe, nearest};
use crate::error::Result;

/// Settings of which one on the command line replaces the others of the file.
const ALTERNATIVES: [(&str, &[&str]); 4] = [
    ("data.eval_split", &["data.eval", "data.eval_target"]),
    ("data.eval", &["data.eval_split"]),
    ("data.train", &["data.sources"]),
    ("data.sources", &["data.train", "data.train_target"]),
];

/// Returns the entries of a file's text, replaced by those of the `key=value` overrides. An error only for a text that
/// is not TOML: nothing else in it can be trusted then.
pub fn entries<'a>(text: &'a str, overrides: &'a [String], problems: &mut Problems) -> Result<Entries<'a>> {
    let mut entries = Entries::default();
    // Counted in bytes: a position need not be between two characters.
    let line = |offset: usize| Origin::Line(text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1);
    let (table, errors) = DeTable::parse_recoverable(text);
    let origin = |error: &toml::de::Error| error.span().map_or(Origin::Absent, |span| line(span.start));
    if let (Some(first), Some(language)) = (errors.first(), other_language(text)) {
        let expected = "and a configuration is TOML: key = value, under [section] lines";
        problems.at(origin(first), "", format!("this looks like {language}, {expected}"));
        for (number, name, advice) in other_tool_lines(text) {
            problems.at(Origin::Line(number), name, advice);
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
        if is_key("", &name) {
            problems.written(&name, origin);
            entries.insert(name.into_owned(), value.into_inner(), None);
        } else if let Some((section, _)) = all().find(|(section, _)| *section == name) {
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
            // It is not missing.
            if let Ok(Some(name)) = resolve(key, all()) {
                problems.written(&name, Origin::CommandLine);
            }
        } else {
            of_override(item, &mut entries, problems);
        }
    }
    for (one, others) in ALTERNATIVES {
        if problems.is_override(one) && others.iter().all(|other| !problems.is_override(other)) {
            for other in others {
                entries.remove(other);
                problems.replaced(other);
            }
        }
    }
    Ok(entries)
}

/// Returns the keys of other tools in a text in YAML or JSON: the line, the key, and what to do.
fn other_tool_lines(text: &str) -> Vec<(usize, &str, String)> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let Some((name, value)) = line.trim_start_matches([' ', '-', '{']).split_once(':') else { continue };
        let name = name.trim().trim_matches(['"', '\'']);
        let value = value.split(" #").next().unwrap_or_default().trim().trim_end_matches(',');
        let nested = value.is_empty() || value.starts_with(['{', '[', '#', '|', '>']);
        let parsed = || DeValue::parse(value).map_or(DeValue::String(Cow::Borrowed(value)), Spanned::into_inner);
        let value = (!nested).then(parsed);
        found.extend(
            other_tool_keys::advice("", name, value.as_ref(), Place::File).map(|advice| (number, name, advice)),
        );
    }
    found
}

/// Returns the likely language of a text that is not TOML, by its first line that is not a comment.
fn other_language(text: &str) -> Option<&'static str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    match first.split_once(':') {
        _ if first.starts_with('{') => Some("JSON"),
        Some((name, value)) if is_name(name) && (value.is_empty() || value.starts_with(' ')) => Some("YAML"),
        _ => (first == "---").then_some("YAML"),
    }
}

/// Notes settings, ours and those of other tools, that are written as options among the words of a command line:
/// `--learning_rate 3e-5` or `--learning-rate=3e-5`. `known` are options of the command.
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
        let problem = match resolve(&key, all()) {
            Ok(Some(_)) => Some(format!("write {key}={text}")),
            Ok(None) => other_tool_keys::advice(section, bare, Some(&value), Place::CommandLine),
            Err(several) => Some(several),
        };
        if let Some(problem) = problem {
            problems.at(Origin::CommandLine, &format!("--{name}"), problem);
        }
    }
}

/// Returns the key and the value of `key = value`, which the shell splits into words, and the number of words after
/// `item` that belong to it.
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
    entries: &mut Entries<'a>,
    problems: &mut Problems,
) {
    for (key, value) in table {
        let origin = line(key.span().start);
        let name = dotted(section, key.get_ref());
        if is_key(section, key.get_ref()) {
            problems.written(&name, origin);
            if table_keys::check(&name, value.get_ref(), &line, problems) {
                entries.insert(name, value.into_inner(), None);
            }
        } else {
            problems.at(origin, &name, unknown_key(section, key.get_ref(), Some(value.get_ref()), Place::File));
        }
    }
}

/// Notes an unknown section, and those of its keys that are ours or another tool's.
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
        let own = || all().any(|(_, key)| key == name).then(|| unknown_key(section, name, Some(value), Place::File));
        if let Some(problem) = other_tool_keys::advice(section, name, Some(value), Place::File).or_else(own) {
            problems.at(line(key.span().start), &dotted(section, name), problem);
        }
    }
}

fn of_override<'a>(item: &'a str, entries: &mut Entries<'a>, problems: &mut Problems) {
    let Some((written, text)) = item.split_once('=') else {
        return problems.at(Origin::CommandLine, item, "expected key=value");
    };
    // A string, such as a prefix, may end with a space.
    let (written, text) = (written.trim(), text.trim_start());
    let value = DeValue::parse(text.trim_end()).map_or(DeValue::String(Cow::Borrowed(text)), Spanned::into_inner);
    match resolve(written, all()) {
        Ok(Some(name)) => {
            problems.written(&name, Origin::CommandLine);
            if table_keys::check(&name, &value, |_| Origin::CommandLine, problems) {
                entries.insert(name, value, Some(text));
            }
        }
        Ok(None) => {
            let (section, key) = written.rsplit_once('.').unwrap_or(("", written));
            problems.at(Origin::CommandLine, written, unknown_key(section, key, Some(&value), Place::CommandLine));
        }
        Err(problem) => problems.at(Origin::CommandLine, written, problem),
    }
}

/// The keys that are always written with their section: the bare name has another meaning.
const ONLY_DOTTED: [&str; 2] = [
    "model.train",         // `train=FILE` is data.train
    "distill.temperature", // `temperature=0.7` is generation.temperature
];

/// Returns the dotted key that was written with or without its section, if it is one. A bare key must be unique over
/// the sections, apart from [`ONLY_DOTTED`].
pub fn resolve<'k>(written: &str, keys: impl Iterator<Item = (&'k str, &'k str)>) -> Result<Option<String>, String> {
    let names = keys.map(|(section, key)| (dotted(section, key), key));
    let matching =
        names.filter(|(name, key)| written == name || written == *key && !ONLY_DOTTED.contains(&name.as_str()));
    let matching: Vec<String> = matching.map(|(name, _)| name).collect();
    match matching.as_slice() {
        [] => Ok(None),
        [key] => Ok(Some(key.clone())),
        _ if matching.iter().any(|key| key == written) => Ok(Some(written.to_owned())),
        _ => Err(format!("there are several keys of this name: write {}", matching.join(" or "))),
    }
}

/// Returns section and name of all keys.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    Config::keys().into_iter().map(|key| (key.section, key.name))
}

fn is_key(section: &str, name: &str) -> bool {
    all().any(|key| key == (section, name))
}

/// Returns what is wrong with an unknown key. The name of a setting in another tool comes first, then the most similar
/// key of any section; between equally similar ones, that of the section that was written.
pub fn unknown_key(section: &str, key: &str, value: Option<&DeValue<'_>>, place: Place) -> String {
    if let Some(advice) = other_tool_keys::advice(section, key, value, place) {
        return advice;
    }
    let candidates = || all().filter(|(s, _)| *s == section).chain(all().filter(|(s, _)| *s != section));
    match nearest(key, candidates().map(|(_, key)| key)) {
        Some(near) => {
            let stands = |s: &str| s == section || !ONLY_DOTTED.contains(&dotted(s, near).as_str());
            let found = candidates().find(|(s, key)| *key == near && stands(s));
            let section = found.map_or("", |(section, _)| section);
            format!("unknown key, did you mean {}?", dotted(section, near))
        }
        None => "unknown key, and no key has a similar name: `trainer config --all` lists all keys".to_owned(),
    }
}

fn unknown_section(name: &str, table: &DeTable<'_>) -> String {
    if let Some(advice) = other_tool_keys::advice("", name, Some(&DeValue::Table(table.clone())), Place::File) {
        return advice;
    }
    let mut sections: Vec<&str> = all().map(|(section, _)| section).filter(|section| !section.is_empty()).collect();
    sections.dedup();
    match nearest(name, sections.iter().copied()) {
        Some(near) => format!("unknown section, did you mean [{near}]?"),
        None => format!("unknown section, expected one of [{}]", sections.join("], [")),
    }
}

fn not_a_section(name: &str, value: &DeValue<'_>) -> String {
    let keys: Vec<String> = all().filter(|(_, key)| *key == name).map(|(section, key)| dotted(section, key)).collect();
    let hint = if keys.is_empty() { String::new() } else { format!(" (did you mean {}?)", keys.join(" or ")) };
    format!("found {}, but [{name}] is a section of settings{hint}", describe(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_key_must_be_unique() {
        let keys = [("", "seed"), ("a", "path"), ("a", "x"), ("b", "path"), ("c", "seed")];
        let resolve = |written| super::resolve(written, keys.into_iter());
        let resolved = |written| resolve(written).unwrap().unwrap();
        assert_eq!(resolve("y"), Ok(None));
        assert_eq!(resolved("x"), "a.x");
        assert_eq!(resolved("b.path"), "b.path");
        assert_eq!(resolve("path").unwrap_err(), "there are several keys of this name: write a.path or b.path");
        // The top level's own key is spelled out already.
        assert_eq!(resolved("seed"), "seed");
        assert_eq!(resolved("c.seed"), "c.seed");
        let resolved = |written| super::resolve(written, all()).unwrap().unwrap();
        assert_eq!(resolved("train"), "data.train");
        assert_eq!(resolved("model.train"), "model.train");
    }

    #[test]
    fn nearest_is_near_or_nothing() {
        assert_eq!(nearest("learning_rat", ["warmup_ratio", "learning_rate"].into_iter()), Some("learning_rate"));
        assert_eq!(nearest("Seed", ["seed"].into_iter()), Some("seed"));
        assert_eq!(nearest("zzz", ["seed", "eval"].into_iter()), None);
    }
}
