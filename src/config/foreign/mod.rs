//! What other tools call things. Someone who brings one of their keys or values is told ours, or that there is none,
//! rather than the one that is spelled most like it. The tables are `keys` and `words`; docs/other-tools.md is made of
//! them.

mod keys;
#[cfg(test)]
mod tests;
mod words;

use toml::de::DeValue;

use super::raw::dotted;
use super::source;
use keys::KEYS;
use words::WORDS;

/// What to do instead of a foreign key. An example is an assignment that is right as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Instead {
    /// A setting of ours with the same values: an example, and what to mind.
    Same(&'static str, &'static str),
    /// A setting of ours with other values: an example, and what to mind.
    Ours(&'static str, &'static str),
    /// The same, for what is off without it.
    On(&'static str, &'static str),
    /// What nothing here does, and what to do instead.
    Missing(&'static str, &'static str),
    /// Why there is nothing to set.
    Needless(&'static str),
}

/// What a foreign word is here.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meaning {
    /// A word of ours, and what to mind.
    Ours(&'static str, &'static str),
    /// What nothing here does, and what there is instead.
    Missing(&'static str),
}

/// Where a key is written: assignments look different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    File,
    CommandLine,
}

/// What is wrong with a foreign key, and what to do instead: ours with the value that was meant, where it means the
/// same. In any case, with `-` for `_` as on command lines, with any section. `None` for a key that is not known.
pub fn advice(section: &str, key: &str, value: Option<&DeValue<'_>>, place: Place) -> Option<String> {
    let instead = find(&dotted(section, key)).or_else(|| find(key.rsplit('.').next().unwrap_or(key)))?;
    let off = value.is_some_and(is_off);
    let what = if value.is_none_or(|value| !value.is_table()) { "key" } else { "section" };
    let told = match instead {
        Instead::On(..) if off => "it is off without it: remove it".to_owned(),
        Instead::Missing(what, _) if off => format!("{what} is not supported in this version, so it is off: remove it"),
        Instead::Missing(what, "") => return Some(format!("{what} is not supported in this version: remove it")),
        Instead::Missing(what, instead) => return Some(format!("{what} is not supported in this version: {instead}")),
        Instead::Needless(why) => match value.and_then(DeValue::as_str).map(|word| (word, meaning("optim", word))) {
            // Another optimizer would be more than a setting that is not needed.
            Some((word, Some(Meaning::Missing(_)))) if find(key) == find("optim") => {
                return Some(format!("{word} is not supported in this version: {why}: remove it"));
            }
            _ => format!("{why}: remove it"),
        },
        Instead::Same(example, note) => {
            let (own, usual) = example.split_once(" = ").unwrap_or((example, ""));
            let text = value.and_then(DeValue::as_str).unwrap_or_default();
            if let Some(Meaning::Missing(_)) = meaning(own, text) {
                return Some(format!("unknown key: use {own}: {}", word(own, text, &format!("{text:?}"))?));
            }
            let carried = value.and_then(|value| carried(own, value));
            format!("use {}{}", assignment(own, carried.as_deref().unwrap_or(usual), place), in_brackets(note))
        }
        Instead::Ours(example, note) | Instead::On(example, note) => {
            let (own, usual) = example.split_once(" = ").unwrap_or((example, ""));
            format!("use {}{}", assignment(own, usual, place), in_brackets(note))
        }
    };
    Some(format!("unknown {what}: {told}"))
}

/// What is wrong with a foreign word for the setting `key` (dotted), and ours; `found` is the word as a message shows
/// it. `None` for a word that is not known.
pub fn word(key: &str, word: &str, found: &str) -> Option<String> {
    Some(match meaning(key, word)? {
        Meaning::Ours(own, note) => format!("found {found}: use {}{}", shown(own), in_brackets(note)),
        Meaning::Missing("") => format!("{found} is not supported in this version"),
        Meaning::Missing(instead) => format!("{found} is not supported in this version: {instead}"),
    })
}

fn find(name: &str) -> Option<Instead> {
    let name = normal(name);
    let mut rows = KEYS.iter().flat_map(|(_, rows)| rows.iter());
    rows.find(|(names, _)| names.contains(&name.as_str())).map(|(_, instead)| *instead)
}

fn meaning(key: &str, word: &str) -> Option<Meaning> {
    let word = normal(word);
    let word = word.strip_prefix("torch.").or(word.strip_prefix("eval_")).unwrap_or(&word);
    let mut rows = WORDS.iter().filter(|(keys, _)| keys.contains(&key)).flat_map(|(_, rows)| rows.iter());
    rows.find(|(words, _)| words.contains(&word)).map(|(_, meaning)| *meaning)
}

fn normal(name: &str) -> String {
    name.trim().to_lowercase().replace(['-', ' '], "_")
}

/// The value for our key `own` that says what was meant, as TOML; `None` where it says nothing there.
fn carried(own: &str, value: &DeValue<'_>) -> Option<String> {
    match value.as_str().and_then(|word| meaning(own, word)) {
        Some(Meaning::Ours(word, _)) => Some(shown(word)),
        Some(Meaning::Missing(_)) => None,
        None => source::fits(own, value).then(|| source::written(value)).flatten(),
    }
}

/// As TOML has it: numbers are bare.
fn shown(word: &str) -> String {
    if word.bytes().all(|b| b.is_ascii_digit()) { word.to_owned() } else { format!("{word:?}") }
}

fn assignment(key: &str, value: &str, place: Place) -> String {
    match place {
        Place::File => format!("{key} = {value}"),
        // A shell would take brackets, and the quotes within them.
        Place::CommandLine if value.contains(['[', ' ']) => format!("'{key}={value}'"),
        Place::CommandLine => format!("{key}={}", value.trim_matches('"')),
    }
}

fn in_brackets(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(" ({note})") }
}

/// Whether a value switches something off.
fn is_off(value: &DeValue<'_>) -> bool {
    let word = value.as_str().map(str::to_lowercase);
    value.as_bool() == Some(false)
        || source::written(value).as_deref() == Some("0")
        || word.is_some_and(|word| ["no", "none", "false", "off", "null"].contains(&word.as_str()))
}
