//! Reads prompt-completion pairs and conversations from files of records.

use super::chat_template::{Kwargs, has_marks, is_answer};
use super::files::Files;
use super::forms::{self, has};
use super::jsonl::{self, kind, missing};
use super::message_content::{joined, name_reasoning, nested_nulls, remove_nulls};
use super::part::Divisible;
use super::records::{self, ClassValues, Format, OnBad, Records, quoted};
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

#[cfg(test)]
impl ConversationSource {
    /// Files with the usual columns.
    pub fn usual(files: impl Into<Files>) -> Self {
        let [prompt, completion, messages] = ["prompt", "completion", "messages"].map(String::from);
        ConversationSource {
            files: files.into(),
            format: None,
            prompt,
            completion,
            messages,
            on_bad_record: OnBad::Error,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Line number, from 1.
    pub line: usize,
    pub said: Said,
    /// Further variables of the chat template.
    pub kwargs: Kwargs,
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
    let record = |line, mut map: Map<String, Value>| {
        let (nulls, kwargs) = (nested_nulls(&map), forms::template_kwargs(&mut map)?);
        Ok(Conversation { line, said: said(map, source)?, kwargs, nulls })
    };
    records::of_objects(&source.files, (source.format, source.on_bad_record, true), ClassValues::Names, record)
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
            let (mut messages, tools) = conversation(&mut map, name, true)?;
            if !system.is_empty() && !messages.iter().any(|message| message["role"] == "system") {
                messages.insert(0, json!({"role": "system", "content": system}));
            }
            all_of(messages, tools, 0)
        }
        None if prompted && answered && map.get("label") == Some(&Value::Bool(false)) => Err(format!(
            "\"label\" is false, so {completion:?} is a rejected answer (an unpaired preference, as for KTO): leave \
             out such records, or the column \"label\" if it means something else"
        )),
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
            let (mut messages, tools) = conversation(map, prompt, true)?;
            let before = messages.iter().filter(|message| is_answer(message)).count();
            messages.append(&mut conversation(map, completion, true)?.0);
            return all_of(messages, tools, before);
        }
        (false, true) => {
            let asked = json!({"role": "user", "content": jsonl::string(map, prompt, "prompt_column")?});
            let (messages, tools) = conversation(map, completion, true)?;
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
    let messages = before.into_iter().map(|before| message(before, true)).collect::<Result<_, _>>()?;
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

/// Takes the messages in the column `name` and the tools out of a record. In one that `trains`, no answer is empty.
pub(super) fn conversation(
    map: &mut Map<String, Value>,
    name: &str,
    trains: bool,
) -> Result<(Vec<Value>, Option<Value>), String> {
    let mut tools = forms::tools(map)?;
    tools.as_mut().map(remove_nulls);
    match (map.shift_remove(name), tools) {
        (Some(Value::Array(list)), tools) => {
            let messages = list.into_iter().map(forms::with_role).zip(1..).map(|(message, number)| {
                self::message(message, trains).map_err(|why| format!("message {number}: {why}"))
            });
            Ok((messages.collect::<Result<Vec<Value>, String>>()?, tools))
        }
        (other, _) => {
            Err(format!("column {name:?} is {}; it must be a list of messages", kind(&other.unwrap_or_default())))
        }
    }
}

/// Validates a message, joins the parts of its content and removes null values at any depth, as if they were absent.
fn message(mut message: Value, trains: bool) -> Result<Value, String> {
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
            if trains && role == "assistant" && text.is_empty() && !calls {
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
#[path = "conversations_tests.rs"]
mod tests;
