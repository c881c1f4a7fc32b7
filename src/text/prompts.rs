//! Reads prompts for generation from JSONL.

use super::conversations::conversation;
use super::jsonl;
use super::records::{File, OnBad, Records, quoted};
use crate::error::Result;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// A JSONL file of prompts, and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSource {
    pub path: PathBuf,
    /// The column with a text to continue, used without a chat template.
    pub text: String,
    /// The column with a user prompt.
    pub prompt: String,
    /// The column with a list of messages. A record has exactly one of the three columns.
    pub messages: String,
    pub on_bad_record: OnBad,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Line number, from 1.
    pub line: usize,
    pub asked: Asked,
}

/// The input of a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Text(String),
    Prompt(String),
    /// Messages, each with a role and content, and the tools the assistant can call.
    Messages {
        messages: Vec<Value>,
        tools: Option<Value>,
    },
}

/// Reads prompts.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; invalid records with [`OnBad::Error`], listed with file and line;
/// no valid record.
pub fn read(source: &PromptSource) -> Result<Records<Prompt>> {
    let file = File::open(&source.path)?;
    let record = |line, map| Ok(Prompt { line, asked: asked(map, source)? });
    file.collect(jsonl::records(file.json_lines()?, record), source.on_bad_record, false)
}

fn asked(mut map: Map<String, Value>, source: &PromptSource) -> Result<Asked, String> {
    let PromptSource { text, prompt, messages, .. } = source;
    let has = |name: &&String| map.get(name.as_str()).is_some_and(|value| !value.is_null());
    let there: Vec<&String> = [messages, prompt, text].into_iter().filter(has).collect();
    match there.as_slice() {
        [name] if *name == messages => {
            let (messages, tools) = conversation(&mut map, messages)?;
            match messages.last().and_then(|last| last.get("role")).and_then(Value::as_str) {
                None => Err("there is no message to answer".into()),
                Some("assistant") => Err("the last message is the assistant's: there is nothing to answer".into()),
                Some(_) => Ok(Asked::Messages { messages, tools }),
            }
        }
        [name] if *name == prompt => Ok(Asked::Prompt(jsonl::string(&mut map, prompt, "prompt_column")?)),
        [_] => Ok(Asked::Text(jsonl::string(&mut map, text, "text_column")?)),
        [] => Err(jsonl::missing(&map, messages, "messages_column, prompt_column or text_column")),
        both => Err(format!("more than one of {} is set: keep only one", quoted(both))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(line: &str) -> Result<Records<Prompt>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, line).unwrap();
        let [text, prompt, messages] = ["text", "prompt", "messages"].map(String::from);
        super::read(&PromptSource { path, text, prompt, messages, on_bad_record: OnBad::Error })
    }

    #[test]
    fn each_kind_is_read() {
        let asked = |line: &str| read(line).unwrap().records.remove(0).asked;
        assert_eq!(asked(r#"{"text": "a", "prompt": null}"#), Asked::Text("a".into()));
        assert_eq!(asked(r#"{"prompt": "", "completion": "b"}"#), Asked::Prompt(String::new()));
        let messages = vec![json!({"role": "user", "content": "a"})];
        let tools = Some(json!([{}]));
        let line = r#"{"messages": [{"role": "user", "content": "a"}], "tools": [{}]}"#;
        assert_eq!(asked(line), Asked::Messages { messages, tools });
    }

    #[test]
    fn errors_name_the_problem() {
        let cases = [
            (r#"{"source": "a"}"#, "set messages_column, prompt_column or text_column"),
            (r#"{"text": "a", "prompt": "b"}"#, "more than one of \"prompt\", \"text\" is set: keep only one"),
            (r#"{"text": 1}"#, "column \"text\" is a number"),
            (r#"{"messages": []}"#, "no message to answer"),
            (r#"{"messages": [{"role": "user"}]}"#, "message 1: no content"),
            (r#"{"messages": [{"role": "assistant", "content": "a"}]}"#, "nothing to answer"),
        ];
        for (line, says) in cases {
            let message = read(line).unwrap_err().to_string();
            assert!(message.contains("a.jsonl:1: ") && message.contains(says), "{line}: {message}");
        }
    }
}
