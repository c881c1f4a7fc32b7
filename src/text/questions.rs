//! Reads extractive question answering data from SQuAD's JSON and from files of records.

use super::files::Files;
use super::input::{Input, extension, newlines};
use super::jsonl::{broken, kind};
use super::part::Divisible;
use super::records::{self, Format, OnBad, Records};
use crate::error::Result;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Files of questions, and how to read them.
///
/// A record has `context`, `question`, `id` (default: the line number) and `answers`. A file with the extension
/// `.jsonl`, `.ndjson`, `.parquet`, `.arrow`, `.feather` or `.ipc`, and a JSON array, has such records. Any other file is
/// SQuAD's JSON, 1.1 or 2.0.
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
        match format_of(input)? {
            Some(format) => {
                records::objects(input, format, |line, map| unique(flat(line, map, source.labelled)?), into)
            }
            None => squad(input, source.labelled, unique, into),
        }
    })
}

/// Returns the format of a file of records; `None` for SQuAD's JSON.
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
        None if input.peek()?.trim_ascii_start().starts_with(b"[") => Ok(Some(Format::Jsonl)),
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

fn squad(
    input: &mut Input,
    labelled: bool,
    mut unique: impl FnMut(Question) -> Result<Question, String>,
    into: &mut Records<Question>,
) -> Result<()> {
    let content = input.content()?;
    let text = std::str::from_utf8(&content).map_err(|e| {
        input.error(1 + newlines(&content[..e.valid_up_to()]), "not valid UTF-8; convert the file to UTF-8")
    })?;
    let squad: Squad = serde_json::from_str(text).map_err(|e| {
        let message = e.to_string();
        let what = message.split(" at line ").next().unwrap_or_default();
        match e.is_data() {
            true => input.error(e.line(), &format!("not in SQuAD's format (data, paragraphs, context, qas): {what}")),
            false => input.error(e.line(), &format!("invalid JSON at column {}: {what}", e.column())),
        }
    })?;
    let (mut line, mut counted) = (input.number(1), 0);
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
mod tests {
    use super::*;

    fn source(dir: &tempfile::TempDir, name: &str, content: &str) -> QuestionSource {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        QuestionSource { files: path.into(), labelled: true, on_bad_record: OnBad::Error }
    }

    /// Returns SQuAD's JSON with these questions on one context, the first on line 5.
    fn squad(questions: &[&str]) -> String {
        let context = "Ärger: Caf\u{e9} \u{1f600} at \\\"Zo\u{eb}'s\\\" opened in 1999 and 2001.";
        let questions = questions.join(",\n");
        format!(
            "{{\"version\": \"v2.0\", \"data\": [{{\"title\": \"x\",\n\"paragraphs\": [{{\n\
             \"context\": \"{context}\",\n\"qas\": [\n{questions}\n]}}]}}]}}\n"
        )
    }

    const WHEN: &str = concat!(
        r#"{"id": "q1", "question": "When?", "answers": [{"text": "1999", "answer_start": 35}, "#,
        r#"{"text": "2001", "answer_start": 44}]}"#
    );
    const NONE: &str = concat!(
        r#"{"id": "q2", "question": "Why?", "answers": [], "is_impossible": true, "#,
        r#""plausible_answers": [{"text": "x", "answer_start": 0}]}"#
    );

    fn message(content: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir, "a.json", content);
        let message = read(&source).unwrap_err().to_string();
        message.strip_prefix(&format!("{}:", source.files)).unwrap_or(&message).to_owned()
    }

    #[test]
    fn answers_are_spans_of_their_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let where_ = r#"{"id": 3, "question": "Where?", "answers": [{"text": "Zoë's", "answer_start": 18}]}"#;
        let read = read(&source(&dir, "a.json", &squad(&[WHEN, NONE, where_]))).unwrap();
        let [when, none, where_] = read.records.as_slice() else { panic!("{read:?}") };
        assert_eq!((when.line, when.id.as_str(), when.question.as_str(), when.answers.len()), (5, "q1", "When?", 2));
        assert_eq!((none.line, none.answers.len()), (6, 0));
        assert_eq!((where_.line, where_.id.as_str()), (7, "3"));
        for question in &read.records {
            for Answer { text, start } in &question.answers {
                assert_eq!(&question.context[*start..start + text.len()], text);
            }
        }
        assert!(Arc::ptr_eq(&when.context, &where_.context));
    }

    #[test]
    fn a_misplaced_answer_is_reported_with_its_question() {
        let at = |start| {
            format!(r#"{{"id": "q9", "question": "?", "answers": [{{"text": "1999", "answer_start": {start}}}]}}"#)
        };
        for start in ["34", "5000", "18446744073709551615"] {
            let expected = format!(
                "6: question \"q9\": the answer \"1999\" is not in its context at character {start} (found at 35)\n\
                 correct the file, or skip invalid records with on_bad_record = \"skip\""
            );
            assert_eq!(message(&squad(&[WHEN, &at(start)])), expected);
        }
        let nowhere = at("35").replace("1999", "1998");
        assert!(message(&squad(&[WHEN, &nowhere])).contains("at character 35 (not found anywhere)"));
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir, "a.json", &squad(&[&nowhere, NONE]));
        let skipping = QuestionSource { on_bad_record: OnBad::Skip, ..source.clone() };
        assert_eq!(read(&skipping).unwrap().skipped[0].0, 5);
        let unlabelled = QuestionSource { labelled: false, ..source };
        assert_eq!(read(&unlabelled).unwrap().records.len(), 2, "for prediction answers do not matter");
    }

    #[test]
    fn errors_name_the_problem() {
        for (question, expected) in [
            (WHEN, "question \"q1\": line 5 has the same id"),
            (r#"{"question": "?", "answers": []}"#, "6: a question has no id"),
            (r#"{"id": "q", "answers": []}"#, "question \"q\": it has no question"),
            (r#"{"id": "q", "question": 1, "answers": []}"#, "its question is a number"),
            (r#"{"id": "q", "question": "?"}"#, "it has no answers; use an empty list"),
            (r#"{"id": "q", "question": "?", "answers": [], "is_impossible": false}"#, "but it has no answer"),
            (&WHEN.replace("q1", "q").replace("]}", "], \"is_impossible\": true}"), "but it has an answer"),
            (r#"{"id": "q", "question": "?", "answers": ["x"]}"#, "answers is not a list of objects with text"),
            (r#"{"id": "q", "question": "?", "answers": "x"}"#, "answers is a string; it must be a list"),
            (r#"{"id": "q", "question": "?", "answers": [{"text": "", "answer_start": 0}]}"#, "an answer is empty"),
            (r#"{"id": "q", "question": "?", "answers": [{"text": "x", "answer_start": -1}]}"#, "its answer_start -1"),
            ("[]", "a question must be a JSON object, found an array"),
            (r#"{"id": "\ud83d"}"#, "6: invalid JSON at column 15: half of a surrogate pair"),
        ] {
            let message = message(&squad(&[WHEN, question]));
            assert!(message.contains(expected), "{question}: {message}");
        }
    }

    #[test]
    fn files_in_another_format_are_errors() {
        let cut = squad(&[WHEN]).replace("]}]}]}", "");
        assert!(message(&cut).starts_with("7: invalid JSON at column 0: EOF while parsing"), "{}", message(&cut));
        let expected = "1: not in SQuAD's format (data, paragraphs, context, qas): missing field `data`";
        assert_eq!(message("{\"text\": 1}"), expected);
        assert!(message("{\"data\": [{\"paragraphs\": [\n{\"qas\": []}]}]}").starts_with("2: not in SQuAD's format"));
        assert!(message("{\"data\": []}").ends_with("the data set is empty: the file contains no record"));
    }

    #[test]
    fn a_json_array_has_questions_and_ids_are_unique_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let record =
            r#"{"context": "a b", "question": "?", "answers": [{"text": "b", "answer_start": 2}], "id": null}"#;
        let array = source(&dir, "a.json", &format!("[{record},\n{record}]"));
        let ids = |source: &QuestionSource| read(source).unwrap().records.into_iter().map(|q| q.id).collect::<Vec<_>>();
        assert_eq!(ids(&array), ["1", "2"]);
        source(&dir, "b.jsonl", record);
        let files = Files::find(&["a.json", "b.jsonl"].map(|name| dir.path().join(name))).unwrap();
        assert_eq!(ids(&QuestionSource { files: files.clone(), ..array.clone() }), ["1", "2", "1:1"]);
        source(&dir, "b.jsonl", &record.replace("null", "2"));
        let message = read(&QuestionSource { files, ..array }).unwrap_err().to_string();
        assert!(
            message.contains("b.jsonl:1: question \"2\": ") && message.contains("a.json:2 has the same id"),
            "{message}"
        );
    }

    #[test]
    fn jsonl_has_one_question_per_line() {
        let dir = tempfile::tempdir().unwrap();
        let content = [
            r#"{"context": "a b", "question": "?", "answers": {"text": ["b"], "answer_start": [2]}}"#,
            r#"{"id": "x", "context": "c", "question": "?", "answers": []}"#,
        ];
        let source = source(&dir, "a.jsonl", &content.join("\n\n"));
        let records = read(&source).unwrap().records;
        assert_eq!((records[0].id.as_str(), records[0].answers[0].start), ("1", 2));
        assert_eq!((records[1].id.as_str(), records[1].line), ("x", 3));
        std::fs::write(&source.files.paths()[0], "{\"id\": \"q\", \"question\": \"?\"}").unwrap();
        let message = read(&source).unwrap_err().to_string();
        assert!(message.contains("a.jsonl:1: question \"q\": it has no context"), "{message}");
    }
}
