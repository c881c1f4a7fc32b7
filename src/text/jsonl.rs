//! JSONL: one JSON object per line.

use super::record::{Fields, Parsed, RawLabel, Record, lines, quoted, utf8};
use serde_json::{Map, Value};

/// Parses the records of a file, valid and invalid; blank lines are skipped.
pub(super) fn parse(content: &[u8], fields: &Fields) -> Vec<Parsed> {
    records(content, |line, map| record(line, map, fields))
}

/// Calls `record` with the number and the object of each line; blank lines are skipped.
pub(super) fn records<R>(
    content: &[u8],
    mut record: impl FnMut(usize, Map<String, Value>) -> Result<R, String>,
) -> Vec<Parsed<R>> {
    lines(content)
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(number, line)| object(line).and_then(|map| record(number, map)).map_err(|why| (number, why)))
        .collect()
}

fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(utf8(line)?).map_err(|e| broken(&e))? {
        Value::Object(map) => Ok(map),
        other => Err(format!("a record must be a JSON object, found {}", kind(&other))),
    }
}

fn record(line: usize, mut map: Map<String, Value>, fields: &Fields) -> Result<Record, String> {
    let text = string(&mut map, &fields.text, "text_column")?;
    let text_pair = match &fields.text_pair {
        Some(name) => Some(string(&mut map, name, "text_pair_column")?),
        None if map.get("text_pair").is_some_and(|v| !v.is_null()) => {
            Some(string(&mut map, "text_pair", "text_pair_column")?)
        }
        None => None,
    };
    let labels = match &fields.label {
        Some(name) if fields.many_labels => {
            let list = (1..).zip(list(&map, name, "label_column")?);
            let labels =
                list.map(|(n, value)| raw_label(value, name, &format!("label {n}"))).collect::<Result<_, _>>()?;
            each_once(labels)?
        }
        Some(name) => vec![label(&map, name, "label_column")?],
        None => Vec::new(),
    };
    Ok(Record { line, text, text_pair, labels })
}

/// Takes a string out of a record; `key` is the setting that names its column.
pub(super) fn string(map: &mut Map<String, Value>, name: &str, key: &str) -> Result<String, String> {
    match map.get_mut(name) {
        Some(Value::String(text)) => Ok(std::mem::take(text)),
        Some(other) => Err(format!("column {name:?} is {}; it must be a string", kind(other))),
        None => Err(missing(map, name, key)),
    }
}

/// Returns the label in column `name`; `key` is the setting that names the column.
fn label(map: &Map<String, Value>, name: &str, key: &str) -> Result<RawLabel, String> {
    let value = map.get(name).ok_or_else(|| missing(map, name, key))?;
    raw_label(value, name, &format!("the label (column {name:?})"))
}

/// Rejects a duplicate label, as in a multi-hot list.
pub(super) fn each_once(labels: Vec<RawLabel>) -> Result<Vec<RawLabel>, String> {
    let twice = labels.iter().enumerate().find(|(i, label)| labels[..*i].contains(label));
    match twice {
        Some((_, label)) => Err(format!(
            "duplicate label {:?}; list the names of the labels that apply, not a multi-hot vector",
            label.as_str()
        )),
        None => Ok(labels),
    }
}

/// Converts a JSON value to a label; `what` names it in an error message.
pub(super) fn raw_label(value: &Value, column: &str, what: &str) -> Result<RawLabel, String> {
    match value {
        Value::String(label) => RawLabel::new(label, column),
        Value::Number(label) => RawLabel::new(label.to_string(), column),
        Value::Bool(label) => RawLabel::new(label.to_string(), column),
        other => Err(format!("{what} is {}; it must be a string, a number or a boolean", kind(other))),
    }
}

/// Returns the list in column `name`; `key` is the setting that names the column.
pub(super) fn list<'a>(map: &'a Map<String, Value>, name: &str, key: &str) -> Result<&'a [Value], String> {
    match map.get(name) {
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(format!("column {name:?} is {}; it must be a list", kind(other))),
        None => Err(missing(map, name, key)),
    }
}

/// Converts a list to non-empty strings; `what` names an element in an error message.
pub(super) fn strings(list: &[Value], what: &str) -> Result<Vec<String>, String> {
    let string = |(n, value): (usize, &Value)| match value {
        Value::String(text) if text.is_empty() => Err(format!("{what} {n} is empty")),
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{what} {n} is {}; it must be a string", kind(other))),
    };
    (1..).zip(list).map(string).collect()
}

/// Returns the error message for a record without the column `name`; `key` is the setting that names the column.
pub(super) fn missing(map: &Map<String, Value>, name: &str, key: &str) -> String {
    match map.is_empty() {
        true => format!("no column {name:?}: the record is empty"),
        false => format!("no column {name:?}; the record has {}: set {key}", quoted(map.keys())),
    }
}

fn broken(e: &serde_json::Error) -> String {
    // The parser's line number is relative to its input, which is always one line here.
    let message = e.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    format!("invalid JSON at column {}: {what}", e.column())
}

/// Returns the JSON type of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(line: &str, fields: &Fields) -> Result<Record, String> {
        object(line.as_bytes()).and_then(|map| record(7, map, fields))
    }

    fn one(line: &str) -> Result<Record, String> {
        with(line, &Fields::default())
    }

    #[test]
    fn labels_keep_their_written_form() {
        for (json, label) in [("1", "1"), ("1.0", "1.0"), ("-2.25", "-2.25"), ("true", "true"), ("\"pos\"", "pos")] {
            let record = one(&format!("{{\"label\": {json}, \"text\": \"a\"}}")).unwrap();
            assert_eq!(record.labels[0].as_str(), label);
        }
    }

    #[test]
    fn an_optional_text_pair_is_read() {
        let pair = |line: &str| one(line).map(|r| r.text_pair);
        assert_eq!(pair(r#"{"text": "a", "text_pair": "b", "label": 1}"#), Ok(Some("b".into())));
        assert_eq!(pair(r#"{"text": "a", "text_pair": null, "label": 1}"#), Ok(None));
        assert_eq!(pair(r#"{"text": "a", "label": 1}"#), Ok(None));
        assert!(pair(r#"{"text": "a", "text_pair": 5, "label": 1}"#).unwrap_err().contains("a number"));
        let fields = Fields { text_pair: Some("b".into()), ..Fields::default() };
        let asked = with(r#"{"text": "a", "label": 1}"#, &fields).unwrap_err();
        assert!(asked.contains("no column \"b\"") && asked.contains("text_pair_column"), "{asked}");
    }

    #[test]
    fn errors_name_the_problem() {
        for (line, expected) in [
            (r#"{"text": "a", "label": 1"#, "invalid JSON at column 24: EOF while parsing an object"),
            (r#"["a", 1]"#, "found an array"),
            (r#"{"sentence": "a", "label": 1}"#, r#"no column "text"; the record has "sentence", "label""#),
            (r#"{"text": 3, "label": 1}"#, r#"column "text" is a number"#),
            (r#"{"text": "a", "label": null}"#, "is null"),
            (r#"{"text": "a", "label": [1]}"#, "is an array"),
            (r#"{"text": "a", "label": {}}"#, "is an object"),
            (r#"{"text": "a", "label": ""}"#, "is empty"),
            (r#"{"text": "a"}"#, "set label_column"),
        ] {
            let message = one(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }

    #[test]
    fn a_record_may_have_many_labels() {
        let fields = Fields { many_labels: true, ..Fields::default() };
        let labels = |list: &str| with(&format!("{{\"text\": \"a\", \"label\": {list}}}"), &fields).map(|r| r.labels);
        let found: Vec<String> = labels(r#"["x, y", 3]"#).unwrap().iter().map(|l| l.as_str().to_owned()).collect();
        assert_eq!((found, labels("[]")), (vec!["x, y".to_owned(), "3".to_owned()], Ok(vec![])));
        for (list, expected) in [
            ("\"x\"", "must be a list"),
            ("[null]", "label 1 is null"),
            ("[\"\"]", "is empty"),
            ("[0.0, 1.0, 0.0]", "duplicate label \"0.0\"; list the names"),
        ] {
            let message = labels(list).unwrap_err();
            assert!(message.contains(expected), "{list}: {message}");
        }
    }

    #[test]
    fn line_numbers_include_blank_and_invalid_lines() {
        let content = b"{\"text\": \"a\\n\xc3\xa4\", \"label\": 1}\r\n\r\n\n{\"text\": \"\xff\", \"label\": 1}\n";
        let parsed = parse(content, &Fields::default());
        assert_eq!(parsed[0].as_ref().unwrap().text, "a\n\u{e4}");
        let (line, why) = parsed[1].as_ref().unwrap_err();
        assert!(*line == 4 && why.contains("byte 11 of the record is not valid UTF-8"), "{line}: {why}");
        assert_eq!(parsed.len(), 2);
    }

    #[test]
    fn no_label_is_needed_for_prediction() {
        let fields = Fields { label: None, ..Fields::default() };
        assert_eq!(with(r#"{"text": "a", "label": null}"#, &fields).unwrap().labels, []);
    }
}
