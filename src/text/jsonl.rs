//! Records as JSON objects: lines of JSONL, elements of a JSON array.

use super::files::quoted;
use super::input::Input;
use super::pieces::Form;
use super::record::{self, Fields, RawLabel, Record, utf8};
use super::{json_array, unique_keys};
use crate::error::Result as InputResult;
use serde_json::{Map, Value};

/// Calls `each` with the line of every record and its object, or what is wrong with it. A file whose first character
/// is `[` is a JSON array of records, any other file JSONL, where blank lines are skipped.
///
/// # Errors
/// A file that cannot be read; an array that is not one.
pub(super) fn objects(
    input: &mut Input,
    mut each: impl FnMut(usize, Result<Map<String, Value>, String>),
) -> InputResult<()> {
    let base = input.number(0);
    let is_array = match input.form() {
        Some(form) => *form == Form::Array,
        None => input.skip_blank()? == Some(b'['),
    };
    if is_array {
        return json_array::elements(input, |line, bytes| each(base + line, object(bytes)));
    }
    while let Some((line, bytes)) = input.next_line()? {
        match bytes.trim_ascii() {
            b"" => {}
            b"{" => each(base + line, Err("a record must be on one line, or an element of a JSON array".into())),
            _ => each(base + line, object(bytes)),
        }
    }
    Ok(())
}

/// Returns the object that is a record.
pub(super) fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    let text = utf8(line)?;
    let parsed = unique_keys::parse(text).or_else(|e| match without_nan(text) {
        Some(text) if e.is_syntax() => unique_keys::parse(&text),
        _ => Err(e),
    });
    match parsed.map_err(|e| broken(&e))? {
        Value::Object(map) => Ok(map),
        other => Err(format!("a record must be a JSON object, found {}", kind(&other))),
    }
}

/// Returns the text with `null` in place of `NaN`, `Infinity` and `-Infinity`, which are no JSON, but which Python's
/// `json.dumps` writes; `None` if it has none.
pub(super) fn without_nan(text: &str) -> Option<String> {
    let (mut out, mut copied) = (String::new(), 0);
    let (mut at, mut quoted) = (0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| bytes[at..].starts_with(word.as_bytes()));
        match (bytes[at], word) {
            (b'\\', _) if quoted => at += 2,
            (b'"', _) => {
                quoted = !quoted;
                at += 1;
            }
            (_, Some(word)) if !quoted => {
                out.push_str(&text[copied..at]);
                out.push_str("null");
                at += word.len();
                copied = at;
            }
            _ => at += 1,
        }
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// Returns the record of an object.
pub(super) fn record(line: usize, mut map: Map<String, Value>, fields: &Fields) -> Result<Record, String> {
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
        Some(name) if !fields.optional || map.contains_key(name) => vec![label(&map, name, "label_column")?],
        _ => Vec::new(),
    };
    let weight = fields.weight.as_ref().map(|name| weight(&map, name)).transpose()?;
    let negatives = match &fields.negative {
        Some(name) if !fields.optional || map.contains_key(name) => negatives(&mut map, name)?,
        _ => Vec::new(),
    };
    Ok(Record { line, text, text_pair, labels, weight, negatives })
}

/// Returns the texts in column `name`: one, or a list.
fn negatives(map: &mut Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    match map.get(name) {
        Some(Value::Array(list)) if list.is_empty() => Err(format!("column {name:?} is an empty list")),
        Some(Value::Array(list)) => strings(list, &format!("column {name:?}: text")),
        _ => string(map, name, "negative_column").map(|text| vec![text]),
    }
}

/// Returns the weight in column `name`.
fn weight(map: &Map<String, Value>, name: &str) -> Result<f32, String> {
    match map.get(name).ok_or_else(|| missing(map, name, "weight_column"))? {
        Value::String(text) => record::weight(text, name),
        Value::Number(number) => record::weight(&number.to_string(), name),
        other => Err(format!("the weight (column {name:?}) is {}; it must be a number >= 0", kind(other))),
    }
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
        Value::Null => Err(format!("{what} is missing (null or NaN; in a column of classes also -1)")),
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
        false => {
            let hint = hint(map).filter(|_| key == "text_column").map(|hint| format!("; {hint}"));
            let found = quoted(map.keys());
            format!("no column {name:?}; the record has {found}: set {key}{}", hint.unwrap_or_default())
        }
    }
}

/// Returns what to set for a record without a text, if it has the form of a conversation or a pair.
fn hint(map: &Map<String, Value>) -> Option<&'static str> {
    let chat = ["messages", "conversations", "instruction", "prompt", "chosen"];
    let chat = chat.iter().any(|name| map.get(*name).is_some_and(|value| !value.is_null()));
    chat.then_some("for conversations and prompts with completions set kind = \"chat\"")
}

/// Returns what is wrong with the JSON of a record.
pub(super) fn broken(e: &serde_json::Error) -> String {
    let message = e.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    // The parser counts lines from the start of the record.
    let place = match e.line() {
        1 => format!("column {}", e.column()),
        line => format!("column {} of its line {line}", e.column()),
    };
    match what {
        _ if e.is_data() => what.to_owned(),
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => format!(
            "invalid JSON at {place}: half of a surrogate pair, which is no character: was an emoji cut in two?"
        ),
        _ => format!("invalid JSON at {place}: {what}"),
    }
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

    type Object = (usize, Result<Map<String, Value>, String>);

    /// The places and objects of a file with this content.
    fn parsed(content: &[u8]) -> Vec<Object> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, content).unwrap();
        let mut found = Vec::new();
        objects(&mut Input::open(&path, 0).unwrap(), |line, object| found.push((line, object))).unwrap();
        found
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
            (r#"{"messages": [], "label": 1}"#, "for conversations and prompts with completions set kind = \"chat\""),
            (r#"{"text": 3, "label": 1}"#, r#"column "text" is a number"#),
            (
                r#"{"text": "a", "label": null}"#,
                "the label (column \"label\") is missing (null or NaN; in a column of classes also -1)",
            ),
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
            ("[null]", "label 1 is missing (null or"),
            ("[\"\"]", "is empty"),
            ("[0.0, 1.0, 0.0]", "duplicate label \"0.0\"; list the names"),
        ] {
            let message = labels(list).unwrap_err();
            assert!(message.contains(expected), "{list}: {message}");
        }
    }

    #[test]
    fn line_numbers_include_blank_and_invalid_lines() {
        let content = b"{\"text\": \"a\\n\xc3\xa4\", \"label\": 1}\r\n\r\n\n{\"text\": \"\xff\", \"label\": 1}\n{\n";
        let parsed = parsed(content);
        assert_eq!(parsed[0].1.as_ref().unwrap()["text"], "a\n\u{e4}");
        let (line, why) = (parsed[1].0, parsed[1].1.as_ref().unwrap_err());
        assert!(line == 4 && why.contains("byte 11 of the record is not valid UTF-8"), "{line}: {why}");
        assert!(parsed[2].0 == 5 && parsed[2].1.as_ref().unwrap_err().contains("must be on one line"));
        assert_eq!(parsed.len(), 3);
    }

    #[test]
    fn an_array_has_the_records_of_lines() {
        let lines = parsed(b"{\"a\": [1]}\n{\"a\": 2, \"a\": 3}\n{\"a\" 1}\n{\"a\": \"\\ud83d\"}\n4\n");
        let array = parsed(b"[{\"a\": [1]},\n{\"a\": 2, \"a\": 3},\n{\"a\" 1},\n{\"a\": \"\\ud83d\"},\n4\n]");
        assert_eq!(lines, array);
        let (numbers, found): (Vec<usize>, Vec<_>) = array.into_iter().unzip();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        let why: Vec<String> = found.into_iter().filter_map(Result::err).collect();
        for (why, expected) in why.iter().zip([
            "the key \"a\" is there twice",
            "invalid JSON at column 6: expected `:`",
            "invalid JSON at column 14: half of a surrogate pair",
            "a record must be a JSON object, found a number",
        ]) {
            assert!(why.starts_with(expected), "{why}");
        }
        let pretty = parsed(b"[\n{\n \"a\": 1,\n \"b\": x\n}]");
        assert_eq!(pretty, [(2, Err("invalid JSON at column 7 of its line 3: expected value".to_owned()))]);
    }

    /// What Python writes for numbers that are no JSON.
    #[test]
    fn numbers_that_are_no_json_are_null() {
        let line = br#"{"a": NaN, "b": [-Infinity, Infinity, 1], "NaN": "\"NaN, Infinity", "c": {"d":NaN}}"#;
        let expected = serde_json::json!({"a": null, "b": [null, null, 1], "NaN": "\"NaN, Infinity", "c": {"d": null}});
        assert_eq!(object(line).map(Value::Object), Ok(expected.clone()));
        let array = [b"[\n".as_slice(), line, b",\n{\"x\": NaN}]"].concat();
        assert_eq!(parsed(&array)[0].1.clone().map(Value::Object), Ok(expected));
        for wrong in [r#"{"a": Nan}"#, r#"{"a": NaNa}"#, r#"{"a": nan}"#, r#"{"a": "NaN", "b": x}"#, r#"{NaN: 1}"#] {
            assert!(object(wrong.as_bytes()).unwrap_err().starts_with("invalid JSON at column"), "{wrong}");
        }
    }

    #[test]
    fn no_label_is_needed_for_prediction() {
        let fields = Fields { label: None, ..Fields::default() };
        assert_eq!(with(r#"{"text": "a", "label": null}"#, &fields).unwrap().labels, []);
    }
}
