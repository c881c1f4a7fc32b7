//! Reads extractive question answering data from SQuAD's JSON and from files of records.

use super::files::Files;
use super::input::{Input, extension, newlines};
use super::jsonl::{self, broken, kind};
use super::part::Divisible;
use super::records::{self, Format, OnBad, Records};
use crate::error::Result;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Files of questions, and how to read them.
///
/// A record has `context`, `question`, `id` (default: the line number) and `answers`. A file with the extension
/// `.jsonl`, `.ndjson`, `.parquet`, `.arrow`, `.feather` or `.ipc`, a JSON array, and a file whose first line is a
/// record have such records. Any other file is SQuAD's JSON, 1.1 or 2.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionSource {
    pub files: Files,
    /// Whether answers are read; false for prediction.
    pub labelled: bool,
    pub on_bad_record: OnBad,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Number of the record's first line, from 1.
    pub line: usize,
    /// Its id, unique in all files.
    pub id: String,
    /// The context, shared by the questions of a paragraph.
    pub context: Arc<str>,
    pub question: String,
    /// The reference answers. Empty: the question cannot be answered from its context, or answers are not read.
    pub answers: Vec<Answer>,
}

impl Divisible for Question {
    /// A context is not both trained on and held out.
    fn group(&self) -> Option<&str> {
        Some(&self.context)
    }
}

/// An answer span in a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text; never empty.
    pub text: String,
    /// Start in the context in bytes: `context[start..].starts_with(text)`. (Files count characters.)
    pub start: usize,
}

/// Reads a file of questions.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read, or is not JSON of SQuAD's form; invalid records with
/// [`OnBad::Error`], listed with file, line and question id: an answer that is not in its context, a duplicate id, an
/// answer to a question marked as impossible; no valid record.
pub fn read(source: &QuestionSource) -> Result<Records<Question>> {
    let mut lines: HashMap<String, usize> = HashMap::new();
    let files = &source.files;
    records::gather(files, source.on_bad_record, source.labelled, |input, into| {
        let mut unique = |question: Question| match lines.entry(question.id.clone()) {
            Entry::Occupied(first) => Err(named(first.key(), format!("{} has the same id", files.line(*first.get())))),
            Entry::Vacant(place) => {
                place.insert(question.line);
                Ok(question)
            }
        };
        if let Some(format) = format_of(input)? {
            return records::objects(input, format, |line, map| unique(flat(line, map, source.labelled)?), into);
        }
        let mut start = Vec::new();
        input.append_line(&mut start)?;
        if !is_record(&start) {
            return squad(input, start, source.labelled, unique, into);
        }
        let mut record = |line, map| unique(flat(line, map, source.labelled)?);
        let line = input.number(input.lines_read());
        into.push(jsonl::object(&start).and_then(|map| record(line, map)).map_err(|why| (line, why)));
        records::objects(input, Format::Jsonl, record, into)
    })
}

/// Whether a line is an object by itself, other than SQuAD's.
fn is_record(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let text = jsonl::without_nan(&text).map_or(text, Cow::Owned);
    serde_json::from_str::<HashMap<String, IgnoredAny>>(&text).is_ok_and(|keys| !keys.contains_key("data"))
}

/// Returns the format of a file of records by its extension; `None` for SQuAD's JSON, or JSON of records.
pub fn format(path: &std::path::Path) -> Option<Format> {
    match extension(path).as_str() {
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "parquet" => Some(Format::Parquet),
        "arrow" | "feather" | "ipc" => Some(Format::Arrow),
        _ => None,
    }
}

fn format_of(input: &mut Input) -> Result<Option<Format>> {
    match format(input.path()) {
        None if input.skip_blank()? == Some(b'[') => Ok(Some(Format::Jsonl)),
        format => Ok(format),
    }
}

#[derive(Deserialize)]
struct Squad<'a> {
    #[serde(borrow)]
    data: Vec<Article<'a>>,
}

#[derive(Deserialize)]
struct Article<'a> {
    #[serde(borrow)]
    paragraphs: Vec<Paragraph<'a>>,
}

#[derive(Deserialize)]
struct Paragraph<'a> {
    context: String,
    // Kept as text to determine the line number; surrogate pairs and numbers are not checked.
    #[serde(borrow)]
    qas: Vec<&'a RawValue>,
}

/// Adds the questions of SQuAD's JSON, of which `content` was read.
fn squad(
    input: &mut Input,
    mut content: Vec<u8>,
    labelled: bool,
    mut unique: impl FnMut(Question) -> Result<Question, String>,
    into: &mut Records<Question>,
) -> Result<()> {
    let before = input.lines_read() - usize::from(!content.is_empty());
    content.append(&mut input.content()?);
    let text = std::str::from_utf8(&content).map_err(|e| {
        let line = before + 1 + newlines(&content[..e.valid_up_to()]);
        input.error(line, "not valid UTF-8; convert the file to UTF-8")
    })?;
    let squad: Squad = serde_json::from_str(text).map_err(|e| {
        let message = e.to_string();
        let what = message.split(" at line ").next().unwrap_or_default();
        match e.is_data() {
            true => {
                let why = format!("not in SQuAD's format (data, paragraphs, context, qas): {what}");
                input.error(before + e.line(), &why)
            }
            false => input.error(before + e.line(), &format!("invalid JSON at column {}: {what}", e.column())),
        }
    })?;
    let (mut line, mut counted) = (input.number(before + 1), 0);
    for Paragraph { context, qas } in squad.data.into_iter().flat_map(|article| article.paragraphs) {
        let context: Arc<str> = context.into();
        for qa in qas {
            let start = qa.get().as_ptr().addr() - text.as_ptr().addr();
            line += newlines(&content[counted..start]);
            counted = start;
            let question = match serde_json::from_str(qa.get()) {
                Ok(Value::Object(mut map)) => id(&map)
                    .and_then(|id| id.ok_or_else(|| "a question has no id".into()))
                    .and_then(|id| question(line, id, context.clone(), &mut map, labelled))
                    .and_then(&mut unique),
                Ok(other) => Err(format!("a question must be a JSON object, found {}", kind(&other))),
                Err(e) => Err(broken(&e)),
            };
            into.push(question.map_err(|why| (line, why)));
        }
    }
    Ok(())
}

fn flat(line: usize, mut map: Map<String, Value>, labelled: bool) -> Result<Question, String> {
    let id = id(&map)?.unwrap_or_else(|| match super::files::split(line) {
        (0, line) => line.to_string(),
        (file, line) => format!("{file}:{line}"),
    });
    let context = text(&mut map, "context").map_err(|why| named(&id, why))?;
    question(line, id, context.into(), &mut map, labelled)
}

fn id(map: &Map<String, Value>) -> Result<Option<String>, String> {
    match map.get("id") {
        Some(Value::String(id)) => Ok(Some(id.clone())),
        Some(Value::Number(id)) => Ok(Some(id.to_string())),
        Some(Value::Null) | None => Ok(None),
        Some(other) => Err(format!("the id is {}; it must be a string", kind(other))),
    }
}

fn text(map: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match map.get_mut(name) {
        Some(Value::String(text)) => Ok(std::mem::take(text)),
        Some(other) => Err(format!("its {name} is {}; it must be a string", kind(other))),
        None => Err(format!("it has no {name}")),
    }
}

fn named(id: &str, why: String) -> String {
    format!("question {id:?}: {why}")
}

fn question(
    line: usize,
    id: String,
    context: Arc<str>,
    map: &mut Map<String, Value>,
    labelled: bool,
) -> Result<Question, String> {
    let read = |map: &mut Map<String, Value>| {
        let question = text(map, "question")?;
        let answers = if labelled { answers(map, &context)? } else { Vec::new() };
        Ok((question, answers))
    };
    match read(map) {
        Ok((question, answers)) => Ok(Question { line, id, context, question, answers }),
        Err(why) => Err(named(&id, why)),
    }
}

fn answers(map: &Map<String, Value>, context: &str) -> Result<Vec<Answer>, String> {
    let impossible = match map.get("is_impossible") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(impossible)) => Some(*impossible),
        Some(other) => return Err(format!("is_impossible is {}; it must be a boolean", kind(other))),
    };
    let form = "a list of objects with text and answer_start";
    let answers: Vec<(&Value, &Value)> = match map.get("answers") {
        None if impossible == Some(true) => Vec::new(),
        None => return Err("it has no answers; use an empty list for an unanswerable question".into()),
        Some(Value::Array(list)) => list
            .iter()
            .map(|answer| answer.get("text").zip(answer.get("answer_start")).ok_or(format!("answers is not {form}")))
            .collect::<Result<_, _>>()?,
        // The format of Hugging Face's data sets: a list of texts and a list of starts.
        Some(answers @ Value::Object(_)) => match (&answers["text"], &answers["answer_start"]) {
            (Value::Array(texts), Value::Array(starts)) if texts.len() == starts.len() => {
                texts.iter().zip(starts).collect()
            }
            _ => return Err("answers has no lists text and answer_start of the same length".into()),
        },
        Some(other) => return Err(format!("answers is {}; it must be {form}", kind(other))),
    };
    match (impossible, answers.is_empty()) {
        (Some(true), false) => return Err("is_impossible is true, but it has an answer".into()),
        (Some(false), true) => return Err("is_impossible is false, but it has no answer".into()),
        _ => {}
    }
    answers.into_iter().map(|(text, start)| answer(text, start, context)).collect()
}

fn answer(text: &Value, start: &Value, context: &str) -> Result<Answer, String> {
    let (Some(text), Some(at)) = (text.as_str(), start.as_u64()) else {
        return Err(format!("an answer's text is {} and its answer_start {start}", kind(text)));
    };
    if text.is_empty() {
        return Err("an answer is empty; use an empty list of answers for an unanswerable question".into());
    }
    let byte = context.char_indices().map(|(byte, _)| byte).nth(usize::try_from(at).unwrap_or(usize::MAX));
    match byte.filter(|&byte| context[byte..].starts_with(text)) {
        Some(start) => Ok(Answer { text: text.to_owned(), start }),
        None => {
            let elsewhere = match context.find(text) {
                Some(byte) => format!("found at {}", context[..byte].chars().count()),
                None => "not found anywhere".into(),
            };
            Err(format!("the answer {text:?} is not in its context at character {at} ({elsewhere})"))
        }
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
