//! Reads prompts for generation from files of records.

use super::chat_template::Kwargs;
use super::conversations::conversation;
use super::files::Files;
use super::forms::{self, has};
use super::jsonl;
use super::part::Divisible;
use super::records::{self, ClassValues, Format, OnBad, Records, quoted};
use crate::error::Result;
use serde_json::{Map, Value};

/// Files of prompts, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSource {
    pub files: Files,
    /// `None`: by each file's extension.
    pub format: Option<Format>,
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
    /// Further variables of the chat template.
    pub kwargs: Kwargs,
}

impl Divisible for Prompt {}

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
    let how = (source.format, source.on_bad_record, false);
    records::of_objects(&source.files, how, ClassValues::Names, |line, mut map| {
        let kwargs = forms::template_kwargs(&mut map)?;
        Ok(Prompt { line, asked: asked(map, source)?, kwargs })
    })
}

fn asked(mut map: Map<String, Value>, source: &PromptSource) -> Result<Asked, String> {
    let PromptSource { text, prompt, messages, .. } = source;
    let conversation_in = forms::messages_column(&map, messages);
    let others = [prompt.as_str(), text.as_str()].into_iter().filter(|name| has(&map, name));
    let there: Vec<&str> = conversation_in.into_iter().chain(others).collect();
    match there.as_slice() {
        [name] if Some(*name) == conversation_in || map.get(*name).is_some_and(Value::is_array) => {
            of_conversation(conversation(&mut map, name, false)?)
        }
        [name] if *name == prompt => Ok(Asked::Prompt(forms::instruction(&mut map, prompt, "prompt_column")?)),
        [_] => Ok(Asked::Text(jsonl::string(&mut map, text, "text_column")?)),
        [] if has(&map, forms::INSTRUCTION) => {
            Ok(Asked::Prompt(forms::instruction(&mut map, forms::INSTRUCTION, "prompt_column")?))
        }
        [] => Err(jsonl::missing(&map, messages, "messages_column, prompt_column or text_column")),
        both => Err(format!("more than one of {} is set: keep only one", quoted(both))),
    }
}

/// Checks a list of messages, as in a record.
///
/// # Errors
/// A message: no list of messages with role and content; nothing to answer.
pub fn of_messages(list: Value) -> Result<Asked, String> {
    const NAME: &str = "messages";
    of_conversation(conversation(&mut Map::from_iter([(NAME.to_owned(), list)]), NAME, false)?)
}

fn of_conversation((messages, tools): (Vec<Value>, Option<Value>)) -> Result<Asked, String> {
    match messages.last().and_then(|last| last.get("role")).and_then(Value::as_str) {
        None => Err("there is no message to answer".into()),
        Some("assistant") => Err("the last message is the assistant's: there is nothing to answer".into()),
        Some(_) => Ok(Asked::Messages { messages, tools }),
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
        super::read(&PromptSource {
            files: path.into(),
            format: None,
            text,
            prompt,
            messages,
            on_bad_record: OnBad::Error,
        })
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

    /// In a chat, unlike in training data, a model may have answered with nothing.
    #[test]
    fn an_earlier_answer_may_be_empty() {
        let said = [("user", "a"), ("assistant", ""), ("user", "b")];
        let messages: Vec<Value> = said.iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
        let list = json!(messages);
        let found = read(&json!({"messages": list}).to_string()).unwrap().records.remove(0).asked;
        assert_eq!(found, Asked::Messages { messages, tools: None });
        assert_eq!(of_messages(list), Ok(found));
    }

    #[test]
    fn other_forms_are_recognized() {
        let asked = |line: &str| read(line).unwrap().records.remove(0).asked;
        let messages = || Asked::Messages { messages: vec![json!({"role": "user", "content": "a"})], tools: None };
        assert_eq!(asked(r#"{"conversations": [{"from": "human", "value": "a"}]}"#), messages());
        assert_eq!(asked(r#"{"prompt": [{"role": "user", "content": "a"}], "tools": ""}"#), messages());
        assert_eq!(asked(r#"{"instruction": "a", "input": "b", "output": "c"}"#), Asked::Prompt("a\nb".into()));
        assert_eq!(asked(r#"{"instruction": "a", "input": ""}"#), Asked::Prompt("a".into()));
    }

    #[test]
    fn variables_of_the_template_are_read() {
        let record =
            read(r#"{"prompt": "a", "chat_template_kwargs": {"x": true, "y": null}}"#).unwrap().records.remove(0);
        assert_eq!(Value::Object(record.kwargs), json!({"x": true}));
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
