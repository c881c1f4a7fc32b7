//! Names of settings in other tools. The message for such a key has our name, or says that there is none, instead of
//! the most similar key. docs/other-tools.md is generated from the table.

mod instead;
mod optimizer_table;
mod table;
#[cfg(test)]
mod tests;

use toml::de::DeValue;

use super::keys::{Section, dotted};
use super::other_tool_values::{self, Meaning, meaning, normal, shown};
use super::sections::Config;
use super::value::to_text;
use instead::Instead;
use table::KEYS;

/// Where a key is written. An assignment looks different on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    File,
    CommandLine,
}

/// Returns what is wrong with a key of another tool, and what to do instead: our key, with the value if it means the
/// same here. Case, `-` for `_`, and the section do not matter. `None` for a key that is not known.
pub fn advice(section: &str, key: &str, value: Option<&DeValue<'_>>, place: Place) -> Option<String> {
    let instead = find(&dotted(section, key)).or_else(|| find(key.rsplit('.').next().unwrap_or(key)))?;
    let off = value.is_some_and(is_off);
    let what = if value.is_none_or(|value| !value.is_table()) { "key" } else { "section" };
    let advice = match instead {
        Instead::On(..) if off => "it is off by default: remove it".to_owned(),
        Instead::Missing(what, _) if off => format!("{what} is not supported in this version, so it is off: remove it"),
        Instead::Missing(what, "") => return Some(format!("{what} is not supported in this version: remove it")),
        Instead::Missing(what, instead) => return Some(format!("{what} is not supported in this version: {instead}")),
        Instead::Needless(why) => format!("{why}: remove it"),
        Instead::Same(example, note) => {
            let (own, usual) = example.split_once(" = ").unwrap_or((example, ""));
            let text = value.and_then(DeValue::as_str).unwrap_or_default();
            if let Some(Meaning::Missing(_)) = meaning(own, text) {
                let problem = other_tool_values::problem(own, text, &format!("{text:?}"))?;
                return Some(format!("unknown key: use {own}: {problem}"));
            }
            let carried = value.and_then(|value| carried(own, value));
            format!("use {}{}", assignment(own, carried.as_deref().unwrap_or(usual), place), in_brackets(note))
        }
        Instead::Ours(example, note) | Instead::On(example, note) => {
            let (own, usual) = example.split_once(" = ").unwrap_or((example, ""));
            format!("use {}{}", assignment(own, usual, place), in_brackets(note))
        }
    };
    Some(format!("unknown {what}: {advice}"))
}

/// Returns the names that other tools have for our key `own` (dotted).
pub fn names(own: &str) -> Vec<&'static str> {
    let is_own = |instead: &Instead| match instead {
        Instead::Same(example, _) | Instead::Ours(example, _) | Instead::On(example, _) => {
            example.split(" = ").next() == Some(own)
        }
        Instead::Missing(..) | Instead::Needless(_) => false,
    };
    let rows = KEYS.iter().flat_map(|(_, rows)| rows.iter()).filter(|(_, instead)| is_own(instead));
    rows.flat_map(|(names, _)| names.iter().copied()).collect()
}

fn find(name: &str) -> Option<Instead> {
    let name = normal(name);
    let mut rows = KEYS.iter().flat_map(|(_, rows)| rows.iter());
    rows.find(|(names, _)| names.contains(&name.as_str())).map(|(_, instead)| *instead)
}

/// Returns a value of another tool as a value of our key `own`, in TOML; `None` where it is none.
fn carried(own: &str, value: &DeValue<'_>) -> Option<String> {
    match value.as_str().and_then(|word| meaning(own, word)) {
        Some(Meaning::Ours(word, _)) => Some(shown(word)),
        Some(Meaning::Missing(_)) => None,
        None => {
            let key = Config::keys().into_iter().find(|key| key.dotted() == own)?;
            (key.problem)(value).is_none().then(|| to_text(value)).flatten()
        }
    }
}

fn assignment(key: &str, value: &str, place: Place) -> String {
    match place {
        Place::File => format!("{key} = {value}"),
        // A shell would expand brackets, and remove the quotes within them.
        Place::CommandLine if value.contains(['[', ' ']) => format!("'{key}={value}'"),
        Place::CommandLine => format!("{key}={}", value.trim_matches('"')),
    }
}

fn in_brackets(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(" ({note})") }
}

fn is_off(value: &DeValue<'_>) -> bool {
    let word = value.as_str().map(str::to_lowercase);
    value.as_bool() == Some(false)
        || to_text(value).as_deref() == Some("0")
        || word.is_some_and(|word| ["no", "none", "false", "off", "null"].contains(&word.as_str()))
}
