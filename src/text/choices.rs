//! Reads multiple-choice questions from files of records.

use super::files::Files;
use super::input::extension;
use super::jsonl;
use super::part::Divisible;
use super::records::{self, ClassValues, Format, OnBad, Records};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Files of multiple-choice questions, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceSource {
    pub files: Files,
    /// `None`: by each file's extension.
    pub format: Option<Format>,
    /// The question column.
    pub question: String,
    /// The context column. `None`: the column `context`, if present.
    pub context: Option<String>,
    /// The column with the list of choices.
    pub choices: String,
    /// The column with the correct choice. `None`: no label is read, as for prediction.
    pub label: Option<String>,
    pub on_bad_record: OnBad,
}

/// A multiple-choice question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// Line number, from 1.
    pub line: usize,
    /// The question, possibly empty.
    pub question: String,
    pub context: Option<String>,
    /// At least two choices; none is empty.
    pub choices: Vec<String>,
    /// Index of the correct choice; always set if [`ChoiceSource::label`] is.
    pub label: Option<u32>,
}

impl Divisible for Choices {}

/// Reads a file of multiple-choice questions.
///
/// The label is the index of the correct choice from 0 (a number), its text, or its letter (`A` for the first). A text
/// match takes precedence over a letter.
///
/// # Errors
/// Input errors (exit 2), as [`records::read`]: invalid records with [`OnBad::Error`], such as
/// fewer than two choices, or a label that matches no choice, listed with file and lines.
pub fn read(source: &ChoiceSource) -> Result<Records<Choices>> {
    if let Some(path) = source.files.paths().iter().find(|path| ["csv", "tsv", "tab"].contains(&&*extension(path))) {
        let why = "multiple-choice data needs lists: JSONL, one object per line, a JSON array, Parquet or Arrow";
        return Err(Error::input(format!("{}: {why}", path.display())));
    }
    let how = (source.format, source.on_bad_record, source.label.is_some());
    records::of_objects(&source.files, how, ClassValues::Numbers, |line, map| record(line, map, source))
}

fn record(line: usize, mut map: Map<String, Value>, source: &ChoiceSource) -> Result<Choices, String> {
    let context = source.context.as_deref().or(map.get("context").is_some_and(|c| !c.is_null()).then_some("context"));
    let context = context.map(|name| jsonl::string(&mut map, name, "context_column")).transpose()?;
    let question = jsonl::string(&mut map, &source.question, "question_column")?;
    let choices = jsonl::strings(jsonl::list(&map, &source.choices, "choices_column")?, "choice")?;
    if choices.len() < 2 {
        return Err(format!("a question needs at least two choices, this one has {}", choices.len()));
    }
    let label = match &source.label {
        Some(name) => {
            let label = map.get(name).ok_or_else(|| jsonl::missing(&map, name, "label_column"))?;
            Some(index(label, &choices)?)
        }
        None => None,
    };
    Ok(Choices { line, question, context, choices, label })
}

fn index(label: &Value, choices: &[String]) -> Result<u32, String> {
    let n = choices.len();
    let found = match label {
        Value::Number(index) => index.as_u64().and_then(|index| usize::try_from(index).ok()),
        Value::String(text) => {
            let mut same = (0..n).filter(|&i| choices[i] == *text);
            match (same.next(), same.next()) {
                (Some(first), Some(second)) => {
                    return Err(format!(
                        "the label {text:?} matches choices {first} and {second} (counted from 0); use the index instead"
                    ));
                }
                (Some(first), None) => Some(first),
                (None, _) => letter(text),
            }
        }
        _ => None,
    };
    found.filter(|&index| index < n).map(|index| index as u32).ok_or_else(|| {
        format!(
            "the label {label} matches none of the {n} choices; use an index from 0 to {}, a letter, or the choice's text",
            n - 1
        )
    })
}

/// Returns the index of a capital letter: 0 for `A`, 25 for `Z`.
fn letter(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A class is the number of a choice, whatever its name.
    #[cfg(feature = "columnar")]
    #[test]
    fn classes_are_indices() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar/classes.parquet");
        let (question, choices, label) = ("text".into(), "choices".into(), Some("label".into()));
        let (format, context, on_bad_record) = (None, None, OnBad::Skip);
        let source = ChoiceSource { files: path.into(), format, question, context, choices, label, on_bad_record };
        let found: Vec<Option<u32>> = read(&source).unwrap().records.iter().map(|record| record.label).collect();
        assert_eq!(found, [Some(2), Some(0), Some(1)]);
    }

    fn source(dir: &tempfile::TempDir, content: &str) -> ChoiceSource {
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let (question, choices, label) = ("question".into(), "choices".into(), Some("label".into()));
        ChoiceSource {
            files: path.into(),
            format: None,
            question,
            context: None,
            choices,
            label,
            on_bad_record: OnBad::Error,
        }
    }

    fn line(choices: &str, label: &str) -> String {
        format!(r#"{{"question": "q", "choices": {choices}, "label": {label}}}"#)
    }

    #[test]
    fn a_label_is_an_index_a_text_or_a_letter() {
        let dir = tempfile::tempdir().unwrap();
        let words = r#"["B", "A", "x", "x"]"#;
        let labels = [(words, "0"), (words, "3"), (words, "\"A\""), (words, "\"C\""), (r#"["x", "y"]"#, "\"y\"")];
        let lines: Vec<String> = labels.iter().map(|(choices, label)| line(choices, label)).collect();
        let read = read(&source(&dir, &lines.join("\n"))).unwrap();
        let found: Vec<u32> = read.records.iter().filter_map(|r| r.label).collect();
        assert_eq!(found, [0, 3, 1, 2, 1]);
        assert_eq!((&read.records[4].choices, &read.records[4].context), (&vec!["x".into(), "y".into()], &None));
    }

    #[test]
    fn an_optional_context_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let content = r#"{"question": "q", "context": "c", "story": "s", "choices": ["x", "y"]}"#;
        let mut source = ChoiceSource { label: None, ..source(&dir, content) };
        let context = |source: &ChoiceSource| read(source).unwrap().records[0].context.clone();
        assert_eq!(context(&source), Some("c".into()));
        source.context = Some("story".into());
        assert_eq!(context(&source), Some("s".into()));
        source.context = Some("tale".into());
        assert!(read(&source).unwrap_err().to_string().contains("no column \"tale\""));
    }

    #[test]
    fn errors_name_the_problem() {
        let dir = tempfile::tempdir().unwrap();
        let two = r#"["x", "y"]"#;
        for (line, expected) in [
            (line(r#"["x"]"#, "0"), "at least two choices, this one has 1"),
            (line("\"x\"", "0"), "column \"choices\" is a string; it must be a list"),
            (line(r#"["x", ""]"#, "0"), "choice 2 is empty"),
            (line(r#"["x", 3]"#, "0"), "choice 2 is a number; it must be a string"),
            (line(two, "2"), "the label 2 matches none of the 2 choices; use an index from 0 to 1"),
            (line(two, "-1"), "the label -1 matches none"),
            (line(two, "\"C\""), "the label \"C\" matches none"),
            (line(two, "\"1\""), "the label \"1\" matches none"),
            (line(two, "null"), "the label null matches none"),
            (line(r#"["x", "x"]"#, "\"x\""), "the label \"x\" matches choices 0 and 1"),
            (line(two, "0").replace("label", "answer"), "set label_column"),
            (line(two, "0").replace("question", "title"), "set question_column"),
            (line(two, "0").replace("choices", "options"), "set choices_column"),
        ] {
            let source = source(&dir, &format!("{}\n{line}\n", self::line(two, "1")));
            let message = read(&source).unwrap_err().to_string();
            let place = format!("{}:2: ", source.files);
            assert!(message.starts_with(&place) && message.contains(expected), "{line}: {message}");
            let read = read(&ChoiceSource { on_bad_record: OnBad::Skip, ..source }).unwrap();
            assert_eq!((read.records.len(), read.skipped.len()), (1, 1));
        }
        let table = ChoiceSource { files: dir.path().join("a.csv").into(), ..source(&dir, "") };
        assert!(read(&table).unwrap_err().to_string().contains("needs lists: JSONL"));
    }
}
