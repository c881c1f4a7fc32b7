//! Methods of Python's values in templates: those of `minijinja_contrib::pycompat`, and more of strings.

use minijinja::value::{Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Calls a method.
pub fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, method, arguments) };
    let not_empty = |separator: &str| match separator {
        "" => Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        _ => Ok(()),
    };
    match method {
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(arguments)?;
            let rest = if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            not_empty(separator)?;
            Ok(tuple(text.split_once(separator).map_or([text, "", ""], |(left, right)| [left, separator, right])))
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            not_empty(separator)?;
            Ok(tuple(text.rsplit_once(separator).map_or(["", "", text], |(left, right)| [left, separator, right])))
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
            separator.map_or(Ok(()), not_empty)?;
            Ok(rsplit(text, separator, most).into_iter().map(Value::from).collect())
        }
        _ => unknown_method_callback(state, value, method, arguments),
    }
}

fn tuple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::from(parts.map(Value::from)))
}

/// Splits a text from its end, at whitespace without a separator; at most `most` times unless that is negative.
fn rsplit<'a>(text: &'a str, separator: Option<&str>, most: Option<i64>) -> Vec<&'a str> {
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = if separator.is_none() { text.trim_end() } else { text };
    while parts.len() < most {
        let split = match separator {
            Some(separator) => rest.rsplit_once(separator),
            None => rest.rsplit_once(char::is_whitespace).map(|(left, right)| (left.trim_end(), right)),
        };
        let Some((left, right)) = split else { break };
        parts.push(right);
        rest = left;
    }
    if separator.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Python 3.11.
    #[test]
    fn texts_are_split_from_their_ends() {
        assert_eq!(rsplit("a,b,,c", Some(","), None), ["a", "b", "", "c"]);
        assert_eq!(rsplit("a,b,c", Some(","), Some(1)), ["a,b", "c"]);
        assert_eq!(rsplit("a,b", Some(","), Some(0)), ["a,b"]);
        assert_eq!(rsplit("", Some(","), None), [""]);
        assert_eq!(rsplit("  a  b c ", None, None), ["a", "b", "c"]);
        assert_eq!(rsplit("  a  b c ", None, Some(1)), ["  a  b", "c"]);
        assert_eq!(rsplit("  ", None, None), [""; 0]);
    }
}
