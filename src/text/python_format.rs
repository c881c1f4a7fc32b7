//! Values of templates as Python's `str` and `repr` write them.

use minijinja::value::{Tuple, Value, ValueKind};

/// Returns a value as Python prints it, where that differs from minijinja's form: `None`, `True`, floating-point numbers,
/// lists and mappings.
pub fn python_str(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => Some(repr(value)),
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
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let list = value.try_iter().map(|list| items(&mut list.map(|item| repr(&item)))).unwrap_or_default();
            match value.downcast_object_ref::<Tuple>() {
                Some(tuple) if tuple.len() == 1 => format!("({list},)"),
                Some(_) => format!("({list})"),
                None => format!("[{list}]"),
            }
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
            '\'' | '"' => out.push(c),
            c if is_printable(c) => out.push(c),
            c => {
                out += &match u32::from(c) {
                    code @ 0..0x100 => format!("\\x{code:02x}"),
                    code @ 0x100..0x10000 => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                }
            }
        }
    }
    out.push(quote);
    out
}

/// As Python's `str.isprintable`, for a character that is neither a quote nor a backslash: Rust escapes the same
/// categories in debug output, and combining characters only at the start.
fn is_printable(c: char) -> bool {
    format!("a{c}").escape_debug().nth(1) != Some('\\')
}

/// Returns the shortest digits that are read as the number, with an exponent below 1e-4 and from 1e16 on.
pub fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ if number.is_finite() && number.fract() == 0.0 => format!("{number}.0"),
        // NaN is `nan` in Python.
        _ => number.to_string().to_lowercase(),
    }
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
        let parts = Value::from(vec!["\u{2028}\u{a0}\u{301}\u{e000}", "\u{10ffff}👋\u{200b}"]);
        assert_eq!(python_str(&parts).unwrap(), "['\\u2028\\xa0\u{301}\\ue000', '\\U0010ffff👋\\u200b']");
    }

    #[test]
    fn numbers_have_exponents_as_in_python() {
        for (number, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.5e300, "-1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(python_str(&Value::from(number)).unwrap(), expected);
        }
        assert_eq!(python_str(&Value::from(3)), None);
    }
}
