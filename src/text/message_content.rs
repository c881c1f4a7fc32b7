//! The content of chat messages in the forms that data files have: lists of parts, nulls that Arrow adds, reasoning.

use super::jsonl::kind;
use serde_json::{Map, Value, json};

/// Keys of an assistant's reasoning, in order of precedence.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Removes keys whose value is null from all objects within a value. Arrow gives all records one schema, so that each
/// gets the keys of the others, as null.
pub fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(remove_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Returns the number of null keys in the tools and tool calls of a record, which may be meant, unlike those of messages
/// and parts.
pub fn nested_nulls(record: &Map<String, Value>) -> usize {
    fn within(value: &Value) -> usize {
        let key = |value: &Value| usize::from(value.is_null()) + within(value);
        match value {
            Value::Object(map) => map.values().map(key).sum(),
            Value::Array(list) => list.iter().map(within).sum(),
            _ => 0,
        }
    }
    let calls = record.values().filter_map(Value::as_array).flatten().filter_map(|message| message.get("tool_calls"));
    calls.chain(record.get("tools")).map(within).sum()
}

/// Joins the texts of a list of parts (`[{"type": "text", "text": ...}]`), as templates that accept parts do.
///
/// # Errors
/// A part that is not text, with its number and type.
pub fn joined(parts: &[Value]) -> Result<String, String> {
    let part = |(part, number): (&Value, usize)| {
        let of_type = part.get("type").and_then(Value::as_str);
        match (part, part.get("text")) {
            (Value::String(text), _) => Ok(text.clone()),
            (_, Some(Value::String(text))) if matches!(of_type, None | Some("text")) => Ok(text.clone()),
            (Value::Object(_), _) if of_type.is_some_and(|of_type| of_type != "text") => Err(format!(
                "part {number} of the content is of type {:?}; only text parts are supported: remove it",
                of_type.unwrap_or_default()
            )),
            (Value::Object(_), _) => Err(format!("part {number} of the content has no text")),
            (other, _) => Err(format!("part {number} of the content is {}; it must be an object", kind(other))),
        }
    };
    parts.iter().zip(1..).map(part).collect()
}

/// Gives an assistant's reasoning the names that templates use, as `transformers` does.
pub fn name_reasoning(message: &mut Map<String, Value>) {
    if let Some(reasoning) = REASONING.iter().find_map(|key| message.get(*key)).cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), json!(reasoning));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_removed_at_every_depth_but_not_from_lists() {
        let mut value = json!({"a": null, "b": {"c": null, "d": [{"e": null, "f": 1}, null]}, "g": false});
        remove_nulls(&mut value);
        assert_eq!(value, json!({"b": {"d": [{"f": 1}, null]}, "g": false}));
        let calls = json!([{"role": "user", "name": null}, {"tool_calls": [{"a": null, "b": {"c": null}}]}]);
        let record = json!({"messages": calls, "tools": [{"d": null}], "id": null});
        assert_eq!(nested_nulls(record.as_object().unwrap()), 3);
    }

    #[test]
    fn texts_of_parts_are_joined_and_other_parts_named() {
        let join = |parts: Value| joined(parts.as_array().unwrap());
        let parts = json!([{"type": "text", "text": "a"}, "b ", {"text": "c"}]);
        assert_eq!(join(parts).unwrap(), "ab c");
        assert_eq!(join(json!([])).unwrap(), "");
        for (parts, why) in [
            (
                json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]),
                "part 2 of the content is of type \"image_url\"; only text parts are supported",
            ),
            (json!([{"type": "image", "text": "alt"}]), "type \"image\""),
            (json!([{"type": "text"}]), "part 1 of the content has no text"),
            (json!([1]), "part 1 of the content is a number"),
        ] {
            assert!(join(parts).unwrap_err().contains(why));
        }
    }

    #[test]
    fn reasoning_has_both_names() {
        let mut message = json!({"role": "assistant", "content": "a", "reasoning": "r"}).as_object().unwrap().clone();
        name_reasoning(&mut message);
        assert_eq!((&message["thinking"], &message["reasoning_content"]), (&json!("r"), &json!("r")));
        let mut plain = json!({"content": "a"}).as_object().unwrap().clone();
        name_reasoning(&mut plain);
        assert_eq!(plain.len(), 1);
    }
}
