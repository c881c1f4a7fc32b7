//! Rows of CSV and TSV as objects of strings, for readers of objects.

use super::cells::{Rows, twice};
use super::files::quoted;
use super::input::Input;
use super::record::Format;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Calls `each` with the line of every row after the header, and the strings in its cells by column name. An empty
/// cell is as if it was not there.
///
/// # Errors
/// A header with a column twice.
pub(super) fn objects(
    input: &mut Input,
    format: Format,
    mut each: impl FnMut(usize, Result<Map<String, Value>, String>),
    remarks: &mut Vec<String>,
) -> Result<()> {
    let path = input.path().to_owned();
    let mut rows = if format == Format::Tsv { Rows::tsv(input) } else { Rows::csv(input, &[], None)? };
    let mut header: Option<Vec<String>> = None;
    let mut first = rows.first_of_file();
    while let Some((line, row)) = first.take().map_or_else(|| rows.next(), |row| Ok(Some(row)))? {
        let Some(names) = &header else {
            let names = row.map(|row| row.iter().map(|name| name.trim().to_owned()).collect::<Vec<_>>());
            let names = names.and_then(|names| twice(&names).map(|()| names));
            header =
                Some(names.map_err(|why| {
                    Error::input(format!("{}:{}: {why}", path.display(), super::files::split(line).1))
                })?);
            continue;
        };
        each(
            line,
            row.and_then(|row| {
                if row.len() != names.len() {
                    return Err(format!(
                        "found {} columns, but the header has {} ({})",
                        row.len(),
                        names.len(),
                        quoted(names)
                    ));
                }
                let cells = names.iter().cloned().zip(row).filter(|(_, cell)| !cell.is_empty());
                Ok(cells.map(|(name, cell)| (name, Value::String(cell))).collect())
            }),
        );
    }
    remarks.extend(rows.remarks());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_objects_of_strings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let of = |content: &str| {
            std::fs::write(&path, content).unwrap();
            let mut found = Vec::new();
            let each = |line, map: Result<Map<String, Value>, String>| found.push((line, map));
            objects(&mut Input::open(&path, 0).unwrap(), Format::Csv, each, &mut Vec::new()).map(|()| found)
        };
        let found = of("prompt;completion\n\"a;\nb\";c\n;d\ne\n").unwrap();
        let map = |json: Value| json.as_object().unwrap().clone();
        assert_eq!(found[0], (2, Ok(map(json!({"prompt": "a;\nb", "completion": "c"})))));
        assert_eq!(found[1], (4, Ok(map(json!({"completion": "d"})))));
        assert_eq!(found[2], (5, Err("found 1 columns, but the header has 2 (\"prompt\", \"completion\")".into())));
        assert!(of("a,b,a\n1,2,3\n").unwrap_err().to_string().contains("f:1: the header has the column \"a\" twice"));
    }
}
