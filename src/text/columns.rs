//! Input columns copied to the predictions: reading them unchanged, classes as their numbers, and writing CSV.

use super::input::Input;
use super::one_object;
use super::records::{ClassValues, Format, Source, each_object, format_of, quoted};
use super::table;
pub use super::table::Named;
use crate::error::Result;
use serde_json::{Map, Value};
use std::io::Write;

/// Returns the `wanted` columns of all files: their names as in the first file, and their values in each record;
/// `null` where a JSON record lacks a column.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read, or has no columns; a column that no record of a file has.
pub fn read(source: &Source, wanted: &[String]) -> Result<Named<Value>> {
    let (mut names, mut values): (Option<Vec<String>>, _) = (None, Vec::new());
    for (path, number) in source.files.paths().iter().zip(0..) {
        let mut input = Input::open(path, number)?;
        let (found, mut rows) = match format_of(path, source.format)? {
            format @ (Format::Csv | Format::Tsv) => {
                let (names, rows) = table::columns(&mut input, source, format, wanted)?;
                (names, rows.into_iter().map(|row| row.into_iter().map(Value::String).collect()).collect())
            }
            format => (wanted.to_vec(), of_objects(&mut input, source, format, wanted)?),
        };
        names.get_or_insert(found);
        values.append(&mut rows);
    }
    Ok((names.unwrap_or_default(), values))
}

fn of_objects(input: &mut Input, source: &Source, format: Format, wanted: &[String]) -> Result<Vec<Vec<Value>>> {
    let mut names: Vec<String> = Vec::new();
    let mut found = vec![false; wanted.len()];
    let mut rows = Vec::new();
    let (mut first, mut bad) = (None, None);
    let each = |line: usize, map: Result<Map<String, Value>, String>| match map {
        Ok(mut map) => {
            first.get_or_insert(line);
            found.iter_mut().zip(wanted).for_each(|(found, name)| *found |= map.contains_key(name));
            names.extend(map.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
            rows.push(wanted.iter().map(|name| map.get_mut(name).map(Value::take).unwrap_or_default()).collect());
        }
        Err(why) => _ = bad.get_or_insert((line, why)),
    };
    each_object(input, (format, ClassValues::Numbers), each, &mut Vec::new())?;
    if let Some((line, why)) = bad {
        one_object::refuse(input.path())?;
        return Err(source.files.error(line, &why));
    }
    match (first, wanted.iter().zip(found).find(|(_, found)| !found)) {
        (Some(line), Some((name, _))) => {
            let hint = one_object::hint(input.path());
            Err(source.files.error(line, &format!("no column {name:?}; found {}{hint}", quoted(&names))))
        }
        _ => Ok(rows),
    }
}

/// Writes rows as CSV (RFC 4180): a header with all keys in order of first appearance, then one line per row. Arrays
/// and objects are written as JSON. A missing key or `null` becomes an empty cell.
pub fn write_csv(rows: &[Map<String, Value>], to: impl Write) -> std::io::Result<()> {
    let mut names: Vec<&String> = Vec::new();
    for row in rows {
        let new: Vec<&String> = row.keys().filter(|name| !names.contains(name)).collect();
        names.extend(new);
    }
    let mut writer = csv::Writer::from_writer(to);
    if !names.is_empty() {
        writer.write_record(&names)?;
    }
    for row in rows {
        let cell = |name: &&String| match row.get(*name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        writer.write_record(names.iter().map(cell))?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::super::files::Files;
    use super::super::records::{Fields, OnBad};
    use super::*;
    use serde_json::json;

    /// Writes a file with this name and content and reads the columns.
    fn named(name: &str, content: &str, wanted: &[&str]) -> Result<Named<Value>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let fields = Fields { label: None, ..Fields::default() };
        let source = Source {
            files: path.into(),
            format: None,
            columns: None,
            header: None,
            fields,
            on_bad_record: OnBad::Error,
        };
        read(&source, &wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    fn of(name: &str, content: &str, wanted: &[&str]) -> Result<Vec<Vec<Value>>> {
        named(name, content, wanted).map(|(_, rows)| rows)
    }

    #[test]
    fn columns_are_returned_per_record() {
        let csv = "id,text,more\n1,\"a, b\nc\",x\n\n2,d\n";
        assert_eq!(of("a.csv", csv, &["more", "ID"]).unwrap(), [[json!("x"), json!("1")], [json!(""), json!("2")]]);
        assert_eq!(named("a.csv", csv, &["more", "ID"]).unwrap().0, ["more", "id"], "as in the file");
        assert_eq!(of("a.tsv", "one\ntwo\n", &["text"]).unwrap(), [[json!("one")], [json!("two")]]);
        let jsonl = "{\"text\": \"a\", \"id\": [1]}\n\n{\"text\": \"b\"}\n";
        assert_eq!(
            of("a.jsonl", jsonl, &["id", "text"]).unwrap(),
            [[json!([1]), json!("a")], [json!(null), json!("b")]]
        );
    }

    #[cfg(feature = "columnar")]
    #[test]
    fn classes_stay_numbers() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar/classes.parquet");
        let (format, columns, header, fields) = (None, None, None, Fields::default());
        let source = Source { files: path.into(), format, columns, header, fields, on_bad_record: OnBad::Error };
        let rows = read(&source, &["label".to_owned()]).unwrap().1;
        assert_eq!(rows.concat(), [json!(2), json!(0), json!(1), json!(-1), json!(null)]);
    }

    #[test]
    fn a_missing_column_is_an_error() {
        for (name, content) in [("a.csv", "id,text\n1,a\n"), ("a.jsonl", "{\"id\": 1, \"text\": \"a\"}\n")] {
            let e = of(name, content, &["text", "key"]).unwrap_err().to_string();
            assert!(e.ends_with(&format!("{name}:1: no column \"key\"; found \"id\", \"text\"")), "{e}");
        }
        assert!(of("a.txt", "a\n", &["text"]).is_err());
    }

    #[test]
    fn columns_of_several_files_are_one_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let paths =
            [("a.csv", "ID,text\n1,a\n"), ("b.jsonl", "{\"text\": \"b\", \"id\": 2}\n")].map(|(name, content)| {
                let path = dir.path().join(name);
                std::fs::write(&path, content).unwrap();
                path
            });
        let (files, fields) = (Files::find(&paths).unwrap(), Fields { label: None, ..Fields::default() });
        let source = Source { files, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error };
        let (names, rows) = read(&source, &["id".to_owned()]).unwrap();
        assert_eq!((names, rows), (vec!["ID".to_owned()], vec![vec![json!("1")], vec![json!(2)]]));
    }

    #[test]
    fn written_csv_can_be_read_back() {
        let rows = [json!({"label": "a, \"b\"", "score": 0.5}), json!({"label": null, "more": [1, 2]})];
        let rows: Vec<Map<String, Value>> = rows.iter().map(|row| row.as_object().unwrap().clone()).collect();
        let mut out = Vec::new();
        write_csv(&rows, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "label,score,more\n\"a, \"\"b\"\"\",0.5,\n,,\"[1,2]\"\n");
        let again = of("a.csv", &text.replace("label", "text"), &["text"]).unwrap();
        assert_eq!(again, [[json!("a, \"b\"")], [json!("")]]);
        let mut none = Vec::new();
        write_csv(&[], &mut none).unwrap();
        assert!(none.is_empty());
    }
}
