//! Reads prompt-completion pairs and conversations from files of records.

use super::chat_template::{has_marks, is_answer};
use super::files::Files;
use super::forms::{self, has};
use super::jsonl::{self, kind, missing};
use super::message_content::{joined, name_reasoning, nested_nulls, remove_nulls};
use super::part::Divisible;
use super::records::{self, Format, OnBad, Records, quoted};
use crate::error::Result;
use serde_json::{Map, Value, json};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Files of conversations, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationSource {
    pub files: Files,
    /// `None`: by each file's extension.
    pub format: Option<Format>,
    /// The prompt column.
    pub prompt: String,
    /// The completion column.
    pub completion: String,
    /// The column with a list of messages; a record has either this column or the other two, or is ShareGPT's or
    /// Alpaca's.
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

impl Divisible for Conversation {}

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
        /// Indices, among the assistant's messages, of those without a loss.
        without_loss: Vec<usize>,
    },
}

/// Reads conversations.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; invalid records with [`OnBad::Error`], listed with file and line;
/// no valid record.
pub fn read(source: &ConversationSource) -> Result<Records<Conversation>> {
    let record = |line, map| Ok(Conversation { line, nulls: nested_nulls(&map), said: said(map, source)? });
    records::of_objects(&source.files, (source.format, source.on_bad_record, true), record)
}

fn said(mut map: Map<String, Value>, source: &ConversationSource) -> Result<Said, String> {
    let ConversationSource { prompt, completion, messages, .. } = source;
    let (prompted, answered) = (has(&map, prompt), has(&map, completion));
    // Beside messages, a prompt alone is no second form: it repeats the first message.
    let usual = *messages == "messages";
    match forms::messages_column(&map, messages) {
        Some(name) if usual && answered => {
            Err(format!("both {name:?} and {prompt:?} or {completion:?} are set: keep only one"))
        }
        Some(name) => {
            let system = map.get("system").and_then(Value::as_str).unwrap_or_default().to_owned();
            let (mut messages, tools) = conversation(&mut map, name)?;
            if !system.is_empty() && !messages.iter().any(|message| message["role"] == "system") {
                messages.insert(0, json!({"role": "system", "content": system}));
            }
            all_of(messages, tools, 0)
        }
        None if answered || prompted && !map.contains_key("chosen") => pair(&mut map, prompt, completion),
        None => match forms::preference(&map, prompt) {
            Some(why) => Err(why),
            None if has(&map, forms::INSTRUCTION) && has(&map, "output") => {
                pair(&mut map, forms::INSTRUCTION, "output")
            }
            None => Err(missing(&map, messages, "messages_column, or prompt_column and completion_column")),
        },
    }
}

/// Returns a prompt and its completion: each a text, or a list of messages as in TRL, where only the messages of the
/// completion have a loss.
fn pair(map: &mut Map<String, Value>, prompt: &str, completion: &str) -> Result<Said, String> {
    let is_list = |name: &str| map.get(name).is_some_and(Value::is_array);
    match (is_list(prompt), is_list(completion)) {
        (false, false) => {}
        (_, false) => return Err(format!("column {prompt:?} is a list of messages; so must {completion:?} be")),
        (true, true) => {
            let (mut messages, tools) = conversation(map, prompt)?;
            let before = messages.iter().filter(|message| is_answer(message)).count();
            messages.append(&mut conversation(map, completion)?.0);
            return all_of(messages, tools, before);
        }
        (false, true) => {
            let asked = json!({"role": "user", "content": jsonl::string(map, prompt, "prompt_column")?});
            let (messages, tools) = conversation(map, completion)?;
            let whole = messages.iter().any(|message| message["role"] == "user");
            let asked = std::iter::once(asked).filter(|_| !whole);
            return all_of(asked.chain(messages).collect(), tools, 0);
        }
    }
    let mut before = if prompt == forms::INSTRUCTION { forms::before_instruction(map)? } else { Vec::new() };
    let prompt = forms::instruction(map, prompt, "prompt_column")?;
    let completion = jsonl::string(map, completion, "completion_column")?;
    if completion.is_empty() {
        return Err("the completion is empty".into());
    }
    refuse_marks(&prompt)?;
    refuse_marks(&completion)?;
    if before.is_empty() {
        return Ok(Said::Pair { prompt, completion });
    }
    before.push(json!({"role": "user", "content": prompt}));
    before.push(json!({"role": "assistant", "content": completion}));
    let messages = before.into_iter().map(message).collect::<Result<_, _>>()?;
    Ok(Said::Messages { messages, tools: None, without_loss: Vec::new() })
}

/// Returns a conversation without a loss on its first `before` answers, and on those whose `weight` is 0 (OpenAI) or
/// whose `train` or `training` is false (axolotl).
fn all_of(mut messages: Vec<Value>, tools: Option<Value>, before: usize) -> Result<Said, String> {
    let mut without_loss: Vec<usize> = (0..before).collect();
    let answers = messages.iter_mut().filter(|message| is_answer(message)).filter_map(Value::as_object_mut);
    let mut count = 0;
    for (answer, n) in answers.zip(0..) {
        count += 1;
        let weight = match answer.shift_remove("weight").as_ref().map(Value::as_f64) {
            None => 1.0,
            Some(Some(weight @ (0.0 | 1.0))) => weight,
            Some(_) => return Err("the weight of a message must be 0 or 1".into()),
        };
        let mut trains = weight > 0.0;
        for key in ["train", "training"] {
            match answer.shift_remove(key) {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => trains = false,
                Some(_) => return Err(format!("{key} of a message must be true or false")),
            }
        }
        without_loss.extend((n >= before && !trains).then_some(n));
    }
    match count {
        0 => Err("no message has the role assistant: there is no completion to train on".into()),
        _ if without_loss.len() == count => {
            Err("every answer has a weight of 0 or train = false: there is nothing to train on".into())
        }
        _ => Ok(Said::Messages { messages, tools, without_loss }),
    }
}

/// Takes the messages in the column `name` and the tools out of a record.
pub(super) fn conversation(map: &mut Map<String, Value>, name: &str) -> Result<(Vec<Value>, Option<Value>), String> {
    let mut tools = forms::tools(map)?;
    tools.as_mut().map(remove_nulls);
    match (map.shift_remove(name), tools) {
        (Some(Value::Array(list)), tools) => {
            let messages = list
                .into_iter()
                .map(forms::with_role)
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
        super::read(&ConversationSource {
            files: path.into(),
            format: None,
            prompt,
            completion,
            messages,
            on_bad_record: OnBad::Error,
        })
    }

    #[test]
    fn both_layouts_are_read() {
        let content = r#"{"prompt": "a", "completion": "b", "messages": null}
{"messages": [{"role": "user", "content": "a", "name": null}, {"role": "assistant", "content": "b", "x": 1}], "tools": []}"#;
        let records = read(content).unwrap().records;
        assert_eq!(records[0].said, Said::Pair { prompt: "a".into(), completion: "b".into() });
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "x": 1}]);
        let (Value::Array(messages), tools) = (messages, Some(json!([]))) else { unreachable!() };
        let said = Said::Messages { messages, tools, without_loss: Vec::new() };
        assert_eq!(records[1], Conversation { line: 2, said, nulls: 0 });
    }

    #[test]
    fn parts_are_joined_and_nested_nulls_left_out() {
        let call = json!({"function": {"name": "f", "arguments": {"x": 1, "y": null}}});
        let parts = json!([{"type": "text", "text": "a", "image": null}, {"type": "text", "text": "b"}]);
        let content = json!({
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "content": [{"type": "text", "text": "c"}]},
            ],
            "tools": [{"function": {"name": "f", "parameters": null}}],
        });
        let records = read(&content.to_string()).unwrap().records;
        let Said::Messages { messages, tools, .. } = &records[0].said else { panic!() };
        let calls = json!([{"function": {"name": "f", "arguments": {"x": 1}}}]);
        let wanted = json!([
            {"role": "user", "content": "ab"},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "content": "c"},
        ]);
        assert_eq!(json!(messages), wanted);
        assert_eq!(tools, &Some(json!([{"function": {"name": "f"}}])));
        assert_eq!(records[0].nulls, 2);
    }

    /// Returns what a record says, with the column `chosen` as the setting's, or as usual.
    fn says(line: &str, setting: &str) -> Result<Said, String> {
        let names =
            ["prompt", "completion", "messages"].map(|name| if name == setting { "chosen" } else { name }.into());
        let [prompt, completion, messages] = names;
        let (files, format, on_bad_record) = (Files::from("a"), None, OnBad::Error);
        let source = ConversationSource { files, format, prompt, completion, messages, on_bad_record };
        said(serde_json::from_str(line).unwrap(), &source)
    }

    fn said_by(turns: &[(&str, &str)], without_loss: &[usize]) -> Result<Said, String> {
        let messages = turns.iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
        Ok(Said::Messages { messages, tools: None, without_loss: without_loss.to_vec() })
    }

    #[test]
    fn other_forms_are_recognized() {
        let turns = [("system", "s"), ("user", "a"), ("assistant", "b")];
        for line in [
            r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b", "weight": 1}], "tools": ""}"#,
            r#"{"conversation": [{"role": "User", "content": "a"}, {"role": "gpt", "value": "b"}], "system": "s"}"#,
            r#"{"instruction": "a", "input": "", "output": "b", "system": "s", "history": []}"#,
            r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                {"role": "model", "content": "b"}], "prompt": "a", "completion": null}"#,
            r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}]}"#,
        ] {
            assert_eq!(says(line, ""), said_by(&turns, &[]), "{line}");
        }
        let pair = |prompt: &str| Ok(Said::Pair { prompt: prompt.into(), completion: "c".into() });
        assert_eq!(says(r#"{"instruction": "a", "input": "b", "output": "c", "history": null}"#, ""), pair("a\nb"));
        assert_eq!(says(r#"{"instruction": "a", "output": "c"}"#, ""), pair("a"));
        let history = r#"{"instruction": "c", "output": "d", "history": [["a", "b"]]}"#;
        let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
        assert_eq!(says(history, ""), said_by(&turns, &[]));
        let tool = r#"{"conversations": [{"from": "observation", "value": "o"}, {"from": "gpt", "value": "b"}],
                       "tools": "[{\"name\": \"f\"}]"}"#;
        let Said::Messages { messages, tools, .. } = says(tool, "").unwrap() else { panic!() };
        assert_eq!((&messages[0]["role"], tools), (&json!("tool"), Some(json!([{"name": "f"}]))));
    }

    #[test]
    fn answers_of_the_prompt_and_of_weight_zero_have_no_loss() {
        let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
        let message =
            |n: usize, more: &str| format!(r#"{{"role": "{}", "content": "{}"{more}}}"#, turns[n].0, turns[n].1);
        let plain = |n| message(n, "");
        let line = format!(r#"{{"prompt": [{}, {}, {}], "completion": [{}]}}"#, plain(0), plain(1), plain(2), plain(3));
        assert_eq!(says(&line, ""), said_by(&turns, &[0]));
        let weighted = |first: &str, second: &str| {
            let parts = [plain(0), message(1, first), plain(2), message(3, second)];
            says(&format!(r#"{{"messages": [{}]}}"#, parts.join(", ")), "")
        };
        assert_eq!(weighted(r#", "weight": 1"#, r#", "weight": 0.0"#), said_by(&turns, &[1]));
        assert!(weighted(r#", "weight": 0"#, r#", "weight": 0"#).unwrap_err().contains("nothing to train on"));
        assert!(weighted(r#", "weight": 0.5"#, "").unwrap_err().contains("must be 0 or 1"));
        assert_eq!(weighted(r#", "train": false"#, r#", "training": true"#), said_by(&turns, &[0]));
        assert_eq!(weighted(r#", "train": true, "weight": 0"#, r#", "train": true"#), said_by(&turns, &[0]));
        assert!(weighted(r#", "train": 0"#, "").unwrap_err().contains("must be true or false"));
    }

    /// The advice for each form of a preference pair reads it.
    #[test]
    fn a_preference_pair_is_read_as_its_message_says() {
        let user = r#"{"role": "user", "content": "a"}"#;
        let answer = r#"{"role": "assistant", "content": "b"}"#;
        let turns = [("user", "a"), ("assistant", "b")];
        for (line, setting, expected) in [
            (
                r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#.to_owned(),
                "completion",
                Ok(Said::Pair { prompt: "a".into(), completion: "b".into() }),
            ),
            (
                format!(r#"{{"prompt": [{user}], "chosen": [{answer}], "rejected": [{answer}]}}"#),
                "completion",
                said_by(&turns, &[]),
            ),
            (format!(r#"{{"chosen": [{user}, {answer}], "rejected": [{user}]}}"#), "messages", said_by(&turns, &[])),
            (
                format!(r#"{{"prompt": "a", "chosen": [{user}, {answer}], "rejected": [{user}]}}"#),
                "messages",
                said_by(&turns, &[]),
            ),
        ] {
            let why = says(&line, "").unwrap_err();
            assert!(
                why.contains("preference pair") && why.contains(&format!("{setting}_column = \"chosen\"")),
                "{why}"
            );
            assert_eq!(says(&line, setting), expected, "{line}");
        }
        let texts = says(r#"{"chosen": "a b", "rejected": "a c"}"#, "").unwrap_err();
        assert!(texts.contains("set kind = \"causal-lm\" and text_column = \"chosen\""), "{texts}");
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
            (of(r#"{"by": "user", "content": "a"}"#), "message 1: no role"),
            (of(r#"{"role": 1, "content": "a"}"#), "message 1: the role is a number"),
            (of(r#"{"role": "user"}"#), "message 1: no content"),
            (of(r#"{"role": "user", "content": [1]}"#), "message 1: part 1 of the content is a number"),
            (
                of(r#"{"role": "user", "content": [{"type": "image"}]}"#),
                "message 1: part 1 of the content is of type \"image\"; only text parts are supported",
            ),
            (of(r#"{"role": "user", "content": {}}"#), "message 1: the content is an object; it must be a string or"),
            (of(r#"{"role": "assistant", "content": ""}"#), "message 1: the assistant's content is empty"),
        ] {
            let message = read(&format!("{line}\n")).unwrap_err().to_string();
            assert!(message.contains("a.jsonl:1: ") && message.contains(expected), "{line}: {message}");
        }
    }
}
