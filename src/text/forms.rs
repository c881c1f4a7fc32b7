//! The forms that records of public data sets have: messages of OpenAI and of ShareGPT, pairs of prompt and completion
//! (TRL's, also with messages), Alpaca's instructions, preference pairs. Each becomes messages or a prompt.

use super::jsonl::{kind, string};
use serde_json::{Map, Value, json};

/// Columns that hold a conversation where the usual column `messages` is missing (ShareGPT).
const CONVERSATIONS: [&str; 2] = ["conversations", "conversation"];
/// Roles by other names, in lowercase.
const ROLES: [(&str, &str); 8] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("model", "assistant"),
    ("ai", "assistant"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("tool_response", "tool"),
];

/// Whether a record has a value in a column.
pub(super) fn has(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).is_some_and(|value| !value.is_null())
}

/// Returns the column with a conversation: the one that the setting `messages_column` names, or, if that has its
/// default, a usual one.
pub(super) fn messages_column<'a>(map: &Map<String, Value>, setting: &'a str) -> Option<&'a str> {
    let usual = CONVERSATIONS.into_iter().filter(|_| setting == "messages");
    std::iter::once(setting).chain(usual).find(|name| has(map, name))
}

/// Returns a message of any form with `role` and `content`: ShareGPT has `from` and `value`, and other roles. What is no
/// message stays as it is.
pub(super) fn with_role(message: Value) -> Value {
    let Value::Object(mut map) = message else { return message };
    for (other, usual) in [("from", "role"), ("value", "content")] {
        if !has(&map, usual)
            && let Some(value) = map.shift_remove(other)
        {
            map.insert(usual.to_owned(), value);
        }
    }
    if let Some(Value::String(role)) = map.get_mut("role") {
        let lower = role.to_lowercase();
        let usual = ["system", "developer", "user", "assistant", "tool"].into_iter().find(|usual| *usual == lower);
        let usual = usual.or(ROLES.iter().find(|(other, _)| *other == lower).map(|(_, usual)| *usual));
        *role = usual.map_or_else(|| std::mem::take(role), str::to_owned);
    }
    Value::Object(map)
}

/// Returns the tools of a record: a list, or a string that is JSON of one. An empty string is none.
///
/// # Errors
/// Anything else.
pub(super) fn tools(map: &mut Map<String, Value>) -> Result<Option<Value>, String> {
    match map.shift_remove("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(list @ Value::Array(_)) => Ok(Some(list)),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(list @ Value::Array(_)) => Ok(Some(list)),
            _ => Err("\"tools\" is a string; it must be a list, or JSON of one".into()),
        },
        Some(other) => Err(format!("\"tools\" is {}; it must be a list", kind(&other))),
    }
}

/// Takes the prompt out of a record with Alpaca's columns; an `input` follows the instruction on a line of its own.
///
/// # Errors
/// A column that is no string.
pub(super) fn instruction(map: &mut Map<String, Value>, column: &str, key: &str) -> Result<String, String> {
    let prompt = string(map, column, key)?;
    if column != INSTRUCTION || !has(map, "input") {
        return Ok(prompt);
    }
    let input = string(map, "input", key)?;
    Ok(if input.is_empty() { prompt } else { format!("{prompt}\n{input}") })
}

pub(super) const INSTRUCTION: &str = "instruction";

/// Returns messages before an Alpaca record's prompt: its `system` text and its `history`, a list of pairs.
pub(super) fn before_instruction(map: &Map<String, Value>) -> Result<Vec<Value>, String> {
    let mut messages = Vec::new();
    match map.get("system") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => messages.push(json!({"role": "system", "content": text})),
        Some(other) => return Err(format!("column \"system\" is {}; it must be a string", kind(other))),
    }
    for turn in map.get("history").and_then(Value::as_array).into_iter().flatten() {
        let Some([asked, said]) = turn.as_array().map(Vec::as_slice) else {
            return Err("\"history\" must be a list of pairs of prompt and answer".into());
        };
        messages.push(json!({"role": "user", "content": asked}));
        messages.push(json!({"role": "assistant", "content": said}));
    }
    Ok(messages)
}

/// Returns why a preference pair is not read as it is, and the setting that reads its preferred answer.
pub(super) fn preference(map: &Map<String, Value>, prompt: &str) -> Option<String> {
    let chosen = map.get("chosen").filter(|_| has(map, "rejected"))?;
    let prompted = has(map, prompt);
    let how = match chosen {
        Value::Array(list) if !prompted || list.len() > 1 => "set messages_column = \"chosen\"",
        Value::String(_) if !prompted => "set kind = \"causal-lm\" and text_column = \"chosen\"",
        _ => "set completion_column = \"chosen\"",
    };
    Some(format!("the record is a preference pair (\"chosen\", \"rejected\"): to train on the chosen answers, {how}"))
}
