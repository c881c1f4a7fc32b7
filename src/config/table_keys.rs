//! Checks the keys of settings that are lists of tables, such as `[[train.groups]]`, each at its line.

use toml::de::DeValue;

use super::keys::{DefaultValue, Key, dotted};
use super::problems::{Origin, Problems};
use super::sections::columns;
use super::value::nearest;

/// Returns the name of the `n`-th table, counted from 1, in messages and as the place of its problems.
pub fn table_name(name: &str, n: usize) -> String {
    format!("{name}, table {n}")
}

/// Notes what is wrong with the keys of the tables of the setting `name` (dotted), and where each table was written.
/// `origin` maps a position in the text to a place. Returns whether nothing is wrong; that the value is a list of
/// tables is not checked.
pub fn check(name: &str, value: &DeValue<'_>, origin: impl Fn(usize) -> Origin, problems: &mut Problems) -> bool {
    let columns = columns(name);
    let DeValue::Array(items) = value else { return true };
    let mut found = Vec::new();
    for (item, n) in items.iter().zip(1..) {
        let DeValue::Table(table) = item.get_ref() else { continue };
        let start = origin(item.span().start);
        problems.written(&table_name(name, n), start);
        for (key, value) in table {
            let problem = match columns.iter().find(|column| column.name == key.get_ref()) {
                Some(column) => (column.problem)(value.get_ref()),
                None => Some(unknown(name, key.get_ref(), &columns)),
            };
            found.extend(problem.map(|problem| (origin(key.span().start), dotted(name, key.get_ref()), problem)));
        }
        let required = columns.iter().filter(|column| matches!(column.default, DefaultValue::Required));
        let missing = required.filter(|column| !table.iter().any(|(key, _)| key.get_ref() == column.name));
        found
            .extend(missing.map(|column| (start, dotted(name, column.name), "is required, and is missing".to_owned())));
    }
    let fine = found.is_empty();
    found.into_iter().for_each(|(origin, key, text)| problems.at(origin, &key, text));
    fine
}

/// Returns what is wrong with an unknown key of a table.
fn unknown(name: &str, key: &str, columns: &[&'static Key]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    match nearest(key, names.iter().copied()) {
        Some(near) => format!("unknown key, did you mean {near}?"),
        None => format!(
            "unknown key: a table [[{name}]] has {}; keys of [{}] are written before the first such table",
            names.join(", "),
            name.split('.').next().unwrap_or_default()
        ),
    }
}
