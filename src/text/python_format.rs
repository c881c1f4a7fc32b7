//! Values of templates as Python's `str` and `repr` write them.

use minijinja::value::{Value, ValueKind};

/// Returns a value as Python prints it, where that differs from minijinja's form: `None`, `True`, lists and mappings.
pub fn python_str(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map => Some(repr(value)),
        _ => None,
    }
}

fn repr(value: &Value) -> String {
    let items = |list: &mut dyn Iterator<Item = String>| list.collect::<Vec<_>>().join(", ");
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool if value.is_true() => "True".into(),
        ValueKind::Bool => "False".into(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let list = value.try_iter().map(|list| items(&mut list.map(|item| repr(&item))));
            format!("[{}]", list.unwrap_or_default())
        }
        ValueKind::Map => {
            let entry = |key: Value| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default()));
            format!("{{{}}}", value.try_iter().map(|keys| items(&mut keys.map(entry))).unwrap_or_default())
        }
        _ => value.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Python 3.11.
    #[test]
    fn values_are_those_of_python() {
        let json = serde_json::json!({"a": [1, 2.5, true, null, "x'y", "\"'", "\n\\\u{7f}é"], "b": {}, "c": []});
        let value = Value::from(minijinja::value::Serde(&json));
        let wanted = r#"{'a': [1, 2.5, True, None, "x'y", '"\'', '\n\\\x7fé'], 'b': {}, 'c': []}"#;
        assert_eq!(python_str(&value).unwrap(), wanted);
        assert_eq!(python_str(&Value::from("text")), None);
    }
}
