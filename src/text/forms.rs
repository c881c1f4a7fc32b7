//! The forms that records of public data sets have: messages of OpenAI and of ShareGPT, pairs of prompt and completion
//! (TRL's, also with messages), Alpaca's instructions, preference pairs. Each becomes messages or a prompt.

use super::chat_template::Kwargs;
use super::jsonl::{kind, string};
use super::message_content::remove_nulls;
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

/// Names that chat templates have from the conversation, or that are settings of `apply_chat_template`.
const RESERVED: [&str; 5] = ["messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"];

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

/// Returns the tools of a record: a list of objects, or a string that is JSON of one. An empty string is none.
///
/// # Errors
/// Anything else.
pub(super) fn tools(map: &mut Map<String, Value>) -> Result<Option<Value>, String> {
    let list = match map.shift_remove("tools") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Array(list)) => list,
            _ => return Err("\"tools\" is a string; it must be a list, or JSON of one".into()),
        },
        Some(other) => return Err(format!("\"tools\" is {}; it must be a list", kind(&other))),
    };
    match list.iter().zip(1..).find(|(tool, _)| !tool.is_object()) {
        Some((other, n)) => Err(format!("tool {n} is {}; it must be an object: its JSON schema", kind(other))),
        None => Ok(Some(Value::Array(list))),
    }
}

/// Takes the variables for the chat template out of a record, TRL's `chat_template_kwargs`: an object, or a string that
/// is JSON of one. Nulls are left out: Arrow gives each record the keys of all others.
///
/// # Errors
/// Anything else; a name that the template has from elsewhere.
pub(super) fn template_kwargs(map: &mut Map<String, Value>) -> Result<Kwargs, String> {
    const NAME: &str = "chat_template_kwargs";
    let mut value = match map.shift_remove(NAME) {
        None | Some(Value::Null) => return Ok(Kwargs::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Kwargs::new()),
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Some(other) => other,
    };
    remove_nulls(&mut value);
    let kwargs = match value {
        Value::Object(kwargs) => kwargs,
        other => return Err(format!("{NAME:?} is {}; it must be an object", kind(&other))),
    };
    match RESERVED.iter().find(|name| kwargs.contains_key(**name)) {
        Some(name) => Err(format!("{NAME:?} has the key {name:?}, which is no variable of its own: remove it")),
        None => Ok(kwargs),
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
