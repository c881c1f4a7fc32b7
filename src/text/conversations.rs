//! Reads prompt-completion pairs and conversations from JSONL.

use super::chat_template::{has_marks, is_answer};
use super::jsonl::{self, kind, missing};
use super::message_content::{joined, name_reasoning, nested_nulls, remove_nulls};
use super::records::{File, OnBad, Records, quoted};
use crate::error::Result;
use serde_json::{Map, Value};
use std::path::PathBuf;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A JSONL file of conversations, and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationSource {
    pub path: PathBuf,
    /// The prompt column.
    pub prompt: String,
    /// The completion column.
    pub completion: String,
    /// The column with a list of messages; a record has either this column or the other two.
    pub messages: String,
    pub on_bad_record: OnBad,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Line number, from 1.
    pub line: usize,
    pub said: Said,
    /// Number of null values in tools and tool calls, which are left out.
    pub nulls: usize,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Pair {
        prompt: String,
        completion: String,
    },
    /// Messages, each with a role and content, at least one by the assistant; and the tools it can call.
    Messages {
        messages: Vec<Value>,
        tools: Option<Value>,
    },
}

/// Reads conversations.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; invalid records with [`OnBad::Error`], listed with file and line;
/// no valid record.
pub fn read(source: &ConversationSource) -> Result<Records<Conversation>> {
    let file = File::open(&source.path)?;
    let record = |line, map| {
        let nulls = nested_nulls(&map);
        Ok(Conversation { line, said: said(map, source)?, nulls })
    };
    file.collect(jsonl::records(file.json_lines()?, record), source.on_bad_record, true)
}

fn said(mut map: Map<String, Value>, source: &ConversationSource) -> Result<Said, String> {
    let ConversationSource { prompt, completion, messages, .. } = source;
    let has = |name: &String| map.get(name).is_some_and(|value| !value.is_null());
    match (has(messages), has(prompt) || has(completion)) {
        (true, true) => Err(format!("both {messages:?} and {prompt:?} or {completion:?} are set: keep only one")),
        (true, false) => {
            let (messages, tools) = conversation(&mut map, messages)?;
            if !messages.iter().any(is_answer) {
                return Err("no message has the role assistant: there is no completion to train on".into());
            }
            Ok(Said::Messages { messages, tools })
        }
        (false, true) => {
            let prompt = jsonl::string(&mut map, prompt, "prompt_column")?;
            let completion = jsonl::string(&mut map, completion, "completion_column")?;
            if completion.is_empty() {
                return Err("the completion is empty".into());
            }
            refuse_marks(&prompt)?;
            refuse_marks(&completion)?;
            Ok(Said::Pair { prompt, completion })
        }
        (false, false) => Err(missing(&map, messages, "messages_column, or prompt_column and completion_column")),
    }
}

/// Takes the messages in the column `name` and the tools out of a record.
pub(super) fn conversation(map: &mut Map<String, Value>, name: &str) -> Result<(Vec<Value>, Option<Value>), String> {
    let mut tools = map.shift_remove("tools").filter(|tools| !tools.is_null());
    tools.as_mut().map(remove_nulls);
    match (map.shift_remove(name), tools) {
        (_, Some(tools)) if !tools.is_array() => Err(format!("\"tools\" is {}; it must be a list", kind(&tools))),
        (Some(Value::Array(list)), tools) => {
            let messages = list
                .into_iter()
                .zip(1..)
                .map(|(message, number)| self::message(message).map_err(|why| format!("message {number}: {why}")));
            Ok((messages.collect::<Result<Vec<Value>, String>>()?, tools))
        }
        (other, _) => {
            Err(format!("column {name:?} is {}; it must be a list of messages", kind(&other.unwrap_or_default())))
        }
    }
}

/// Validates a message, joins the parts of its content and removes null values at any depth, as if they were absent.
fn message(mut message: Value) -> Result<Value, String> {
    remove_nulls(&mut message);
    let mut map = match message {
        Value::Object(map) => map,
        other => return Err(format!("found {}; a message must be an object with role and content", kind(&other))),
    };
    let role = match map.get("role") {
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(format!("the role is {}; it must be a string", kind(other))),
        None => return Err("no role".into()),
    };
    if !ROLES.contains(&role.as_str()) {
        return Err(format!("the role {role:?} is not one of {}", quoted(ROLES)));
    }
    if let Some(Value::Array(parts)) = map.get("content") {
        let text = joined(parts)?;
        map.insert("content".into(), text.into());
    }
    name_reasoning(&mut map);
    let calls = map.get("tool_calls").is_some_and(|calls| calls.as_array().is_some_and(|calls| !calls.is_empty()));
    match map.get("content") {
        Some(Value::String(text)) => {
            if role == "assistant" && text.is_empty() && !calls {
                return Err("the assistant's content is empty: there is no completion to train on".into());
            }
            refuse_marks(text)?;
        }
        Some(other) => return Err(format!("the content is {}; it must be a string or a list of parts", kind(other))),
        None if calls => {}
        None => return Err("no content".into()),
    }
    Ok(Value::Object(map))
}

fn refuse_marks(text: &str) -> Result<(), String> {
    let why = "the text contains U+FDD0 or U+FDD1, which are not valid characters: remove them";
    if has_marks(text) { Err(why.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Records<Conversation>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let [prompt, completion, messages] = ["prompt", "completion", "messages"].map(String::from);
        super::read(&ConversationSource { path, prompt, completion, messages, on_bad_record: OnBad::Error })
    }

    #[test]
    fn both_layouts_are_read() {
        let content = r#"{"prompt": "a", "completion": "b", "messages": null}
{"messages": [{"role": "user", "content": "a", "name": null}, {"role": "assistant", "content": "b", "x": 1}], "tools": []}"#;
        let records = read(content).unwrap().records;
        assert_eq!(records[0].said, Said::Pair { prompt: "a".into(), completion: "b".into() });
        let messages =
            serde_json::json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "x": 1}]);
        let Value::Array(messages) = messages else { unreachable!() };
        let tools = Some(Value::Array(Vec::new()));
        assert_eq!(records[1], Conversation { line: 2, said: Said::Messages { messages, tools }, nulls: 0 });
    }

    #[test]
    fn parts_are_joined_and_nested_nulls_left_out() {
        let call = serde_json::json!({"function": {"name": "f", "arguments": {"x": 1, "y": null}}});
        let parts = serde_json::json!([{"type": "text", "text": "a", "image": null}, {"type": "text", "text": "b"}]);
        let content = serde_json::json!({
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "content": [{"type": "text", "text": "c"}]},
            ],
            "tools": [{"function": {"name": "f", "parameters": null}}],
        });
        let records = read(&content.to_string()).unwrap().records;
        let Said::Messages { messages, tools } = &records[0].said else { panic!() };
        let calls = serde_json::json!([{"function": {"name": "f", "arguments": {"x": 1}}}]);
        let wanted = serde_json::json!([
            {"role": "user", "content": "ab"},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "content": "c"},
        ]);
        assert_eq!(serde_json::json!(messages), wanted);
        assert_eq!(tools, &Some(serde_json::json!([{"function": {"name": "f"}}])));
        assert_eq!(records[0].nulls, 2);
    }

    #[test]
    fn errors_name_the_problem() {
        let of = |message: &str| format!("{{\"messages\": [{message}]}}");
        for (line, expected) in [
            (
                "{\"text\": 1}".to_owned(),
                "no column \"messages\"; the record has \"text\": set messages_column, or prompt",
            ),
            (r#"{"prompt": "a"}"#.to_owned(), "no column \"completion\""),
            (r#"{"prompt": 1, "completion": "b"}"#.to_owned(), "column \"prompt\" is a number; it must be a string"),
            (r#"{"prompt": "a", "completion": ""}"#.to_owned(), "the completion is empty"),
            (r#"{"prompt": "a", "completion": "b", "messages": []}"#.to_owned(), "both \"messages\" and"),
            (r#"{"prompt": "a", "completion": "\ufdd0"}"#.to_owned(), "U+FDD0"),
            (r#"{"messages": "a"}"#.to_owned(), "is a string; it must be a list of messages"),
            (r#"{"messages": [], "tools": {}}"#.to_owned(), "\"tools\" is an object"),
            (of(""), "no message has the role assistant"),
            (of(r#"{"role": "user", "content": "a"}"#), "no message has the role assistant"),
            (of("3"), "message 1: found a number"),
            (
                of(r#"{"role": "user", "content": "a"}, {"role": "bot", "content": "a"}"#),
                "message 2: the role \"bot\" is not",
            ),
            (of(r#"{"from": "user", "content": "a"}"#), "message 1: no role"),
            (of(r#"{"role": 1, "content": "a"}"#), "message 1: the role is a number"),
            (of(r#"{"role": "user"}"#), "message 1: no content"),
            (of(r#"{"role": "user", "content": [1]}"#), "message 1: part 1 of the content is a number"),
            (
                of(r#"{"role": "user", "content": [{"type": "image"}]}"#),
                "message 1: part 1 of the content is of type \"image\", but this program trains on text only",
            ),
            (of(r#"{"role": "user", "content": {}}"#), "message 1: the content is an object; it must be a string or"),
            (of(r#"{"role": "assistant", "content": ""}"#), "message 1: the assistant's content is empty"),
        ] {
            let message = read(&format!("{line}\n")).unwrap_err().to_string();
            assert!(message.contains("a.jsonl:1: ") && message.contains(expected), "{line}: {message}");
        }
    }
}
