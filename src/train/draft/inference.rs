//! Infers the task of data from its columns.

use super::names::{LABELS, PAIRS, PROMPTS, TEXTS, TRANSLATIONS};
use crate::config::{TaskConfig, TaskKind};
use crate::models::registry;
use crate::text::survey::{Column, Columns, Survey};
use crate::train::quoting::quoted;
use crate::train::reading;

/// A numeric label with more different values is a number to predict.
const CLASSES: usize = 20;

/// The task of data, and the settings of `[data]` for it.
pub(super) struct Proposal {
    pub kind: TaskKind,
    /// Keys and values as TOML.
    pub settings: Vec<(&'static str, String)>,
    /// The columns of the texts that are tokenized as one example, if `max_length` should be chosen for them.
    pub texts: Vec<usize>,
    /// What speaks for it.
    pub why: String,
}

/// Returns why models of this type are not fine-tuned for a task.
pub(super) fn refusal(model_type: &str, kind: TaskKind) -> Option<&'static str> {
    let task = TaskConfig::new(kind);
    registry::family(model_type).and_then(|family| (family.refusal)(reading::role(&task)))
}

/// Returns the proposal for data of one form, for models of a family if that is known; `None` for other data.
type Infer = fn(&Columns, Option<&str>) -> Option<Proposal>;

/// Infers the task from the data.
///
/// # Errors
/// What was found, and what is expected.
pub(super) fn propose(survey: &Survey, family: Option<&str>) -> Result<Proposal, String> {
    let plain = |kind, why: &str| Ok(Proposal { kind, settings: Vec::new(), texts: Vec::new(), why: why.to_owned() });
    match survey {
        Survey::PlainText => plain(language_model(family), "plain text"),
        Survey::Conll => plain(TaskKind::TokenClassification, "words with tags"),
        Survey::Squad => plain(TaskKind::QuestionAnswering, "SQuAD's JSON"),
        Survey::Records(columns) => {
            let all: [Infer; 7] = [tagged_words, choices, questions, conversation, matches, translation, labelled_text];
            let by_columns = all.iter().find_map(|infer| infer(columns, family));
            by_columns.or_else(|| text_only(columns, family)).ok_or_else(|| {
                let names: Vec<String> = columns.columns.iter().map(|column| format!("{:?}", column.name)).collect();
                format!(
                    "no task is known for the columns {}; docs/data.md describes the columns of each task",
                    names.join(", ")
                )
            })
        }
    }
}

fn language_model(family: Option<&str>) -> TaskKind {
    let masked = family.is_some_and(|family| refusal(family, TaskKind::CausalLm).is_some());
    if masked { TaskKind::MaskedLm } else { TaskKind::CausalLm }
}

/// Returns a setting that names a column, unless it is the default.
fn named(key: &'static str, column: &str, default: &str) -> Option<(&'static str, String)> {
    (column != default).then(|| (key, quoted(column)))
}

fn conversation(columns: &Columns, family: Option<&str>) -> Option<Proposal> {
    if let Some(list) = columns.find(&["messages", "conversations", "conversation", "chosen"], Column::is_objects) {
        let settings = named("messages_column", &list.name, "messages").filter(|_| list.name == "chosen");
        let why = format!("conversations in column {:?}", list.name);
        return Some(Proposal {
            kind: TaskKind::Chat,
            settings: settings.into_iter().collect(),
            texts: Vec::new(),
            why,
        });
    }
    let pair = pair(columns, PROMPTS)?;
    let chats = family.is_none_or(|family| refusal(family, TaskKind::Chat).is_none());
    Some(if chats { answers(pair) } else { translations(pair) })
}

fn answers([prompt, completion]: [&Column; 2]) -> Proposal {
    let alpaca = (&*prompt.name, &*completion.name) == ("instruction", "output");
    let settings =
        [named("prompt_column", &prompt.name, "prompt"), named("completion_column", &completion.name, "completion")];
    let settings = settings.into_iter().flatten().filter(|_| !alpaca).collect();
    let why = format!("prompts in column {:?}, answers in {:?}", prompt.name, completion.name);
    Proposal { kind: TaskKind::Chat, settings, texts: Vec::new(), why }
}

/// Returns the first of these pairs of columns of which both are texts.
fn pair<'a>(columns: &'a Columns, names: &[(&str, &str)]) -> Option<[&'a Column; 2]> {
    let text = |name: &str| columns.find(&[name], Column::is_text);
    names.iter().find_map(|(source, target)| Some([text(source)?, text(target)?]))
}

fn tagged_words(columns: &Columns, _: Option<&str>) -> Option<Proposal> {
    let words = columns.find(&["words", "tokens"], Column::is_list)?;
    let tags = columns.find(&["tags", "ner_tags", "labels", "pos_tags", "chunk_tags", "ner"], Column::is_list)?;
    let settings = [named("words_column", &words.name, "words"), named("tags_column", &tags.name, "tags")];
    let why = format!("words in column {:?}, tags in {:?}", words.name, tags.name);
    let settings = settings.into_iter().flatten().collect();
    (words.size == tags.size).then_some(Proposal {
        kind: TaskKind::TokenClassification,
        settings,
        texts: Vec::new(),
        why,
    })
}

fn choices(columns: &Columns, _: Option<&str>) -> Option<Proposal> {
    let choices = columns.find(&["choices", "options", "endings", "answers"], Column::is_list)?;
    let question =
        columns.find(&["question", "query", "ctx", "premise", "sentence", "startphrase"], Column::is_text)?;
    let single = |column: &Column| column.is_text() || column.is_number();
    let label = columns.find(&["label", "answer", "answerkey", "answer_key", "correct", "answer_idx"], single)?;
    let settings = [
        named("question_column", &question.name, "question"),
        named("choices_column", &choices.name, "choices"),
        named("label_column", &label.name, "label"),
    ];
    let why = format!("questions with choices in column {:?}, answers in {:?}", choices.name, label.name);
    let settings = settings.into_iter().flatten().collect();
    Some(Proposal { kind: TaskKind::MultipleChoice, settings, texts: Vec::new(), why })
}

fn questions(columns: &Columns, _: Option<&str>) -> Option<Proposal> {
    let text = |name: &str| columns.find(&[name], Column::is_text);
    columns.find(&["answers"], Column::is_objects)?;
    let (Some(_), Some(_)) = (text("context"), text("question")) else { return None };
    let why = "questions with contexts and answers".to_owned();
    Some(Proposal { kind: TaskKind::QuestionAnswering, settings: Vec::new(), texts: Vec::new(), why })
}

/// Texts with a match and perhaps negatives, as data sets of sentence-transformers name them.
fn matches(columns: &Columns, _: Option<&str>) -> Option<Proposal> {
    let text = columns.find(&["anchor", "query"], Column::is_text)?;
    let positive = columns.find(&["positive", "pos"], Column::is_text)?;
    let negative = columns.find(&["negative", "negatives", "neg"], |column| column.is_text() || column.is_list());
    let mut settings = vec![("text_column", quoted(&text.name)), ("text_pair_column", quoted(&positive.name))];
    settings.extend(negative.map(|negative| ("negative_column", quoted(&negative.name))));
    let why = format!("texts in column {:?}, their matches in {:?}", text.name, positive.name);
    Some(Proposal { kind: TaskKind::Embedding, settings, texts: Vec::new(), why })
}

fn translation(columns: &Columns, family: Option<&str>) -> Option<Proposal> {
    let pair = pair(columns, TRANSLATIONS)?;
    // A short target with few values is a label.
    if pair[1].distinct().is_some_and(|n| n <= CLASSES) && columns.rows > 5 * CLASSES {
        return None;
    }
    let translates = family.is_none_or(|family| refusal(family, TaskKind::Seq2seq).is_none());
    Some(if translates { translations(pair) } else { answers(pair) })
}

fn translations([source, target]: [&Column; 2]) -> Proposal {
    let settings = [named("source_column", &source.name, "source"), named("target_column", &target.name, "target")];
    let why = format!("sources in column {:?}, targets in {:?}", source.name, target.name);
    let settings = settings.into_iter().flatten().collect();
    Proposal { kind: TaskKind::Seq2seq, settings, texts: Vec::new(), why }
}

fn labelled_text(columns: &Columns, _: Option<&str>) -> Option<Proposal> {
    let place = |wanted: &Column| columns.columns.iter().position(|column| std::ptr::eq(column, wanted));
    let by_size = |skip: &[usize]| {
        let texts = columns.columns.iter().enumerate().filter(|(i, column)| column.is_text() && !skip.contains(i));
        texts.max_by(|a, b| a.1.mean_size().total_cmp(&b.1.mean_size())).map(|(i, _)| i)
    };
    let headless = columns.header == Some(false);
    let label = match columns.find(LABELS, |column| column.filled > 0 && !column.is_objects()) {
        Some(label) => place(label)?,
        None if headless => label_by_values(columns)?,
        None => return None,
    };
    let of_label = &columns.columns[label];
    let text = columns.find(TEXTS, |c| c.is_text() && !std::ptr::eq(c, of_label)).and_then(place);
    let mut text = text.or_else(|| by_size(&[label]))?;
    let mut second = columns.find(PAIRS, |c| c.is_text() && !std::ptr::eq(c, of_label)).and_then(place);
    if headless {
        // Without names, all long texts belong to the example.
        let long = |&i: &usize| i != label && columns.columns[i].is_text() && columns.columns[i].mean_size() > 20.0;
        let mut long = (0..columns.columns.len()).filter(long);
        text = long.next().unwrap_or(text);
        second = long.next();
    }
    let second = second.filter(|second| *second != text);
    let kind = match of_label {
        label if label.is_list() => TaskKind::MultiLabel,
        label
            if label.is_number()
                && (label.integers < label.numbers || label.distinct().is_none_or(|n| n > CLASSES)) =>
        {
            TaskKind::Regression
        }
        _ => TaskKind::SequenceClassification,
    };
    let names = |i: usize| columns.columns[i].name.as_str();
    let mut settings = Vec::new();
    if headless {
        let usual = |i: usize| match i {
            _ if i == text => "text".to_owned(),
            _ if Some(i) == second => "text_pair".to_owned(),
            _ if i == label => "label".to_owned(),
            _ => names(i).to_owned(),
        };
        let list: Vec<String> = (0..columns.columns.len()).map(|i| quoted(&usual(i))).collect();
        settings.push(("columns", format!("[{}]", list.join(", "))));
        settings.extend(second.map(|_| ("text_pair_column", quoted("text_pair"))));
    } else {
        settings.extend(named("text_column", names(text), "text"));
        settings.extend(second.map(|second| ("text_pair_column", quoted(names(second)))));
        settings.extend(named("label_column", names(label), "label"));
    }
    if of_label.filled < columns.rows && !of_label.is_list() {
        settings.push(("on_bad_record", "\"skip\" # some records have no label".to_owned()));
    }
    let values = of_label.distinct().filter(|_| kind == TaskKind::SequenceClassification);
    let values = values.map_or_else(String::new, |n| format!(" ({n} different)"));
    let pair = second.map_or_else(String::new, |second| format!(" and {:?}", names(second)));
    let why = format!("texts in column {:?}{pair}, labels in {:?}{values}", names(text), names(label));
    Some(Proposal { kind, settings, texts: [Some(text), second].into_iter().flatten().collect(), why })
}

/// Returns the column of a table without a header that has labels: numbers, or few different short texts.
fn label_by_values(columns: &Columns) -> Option<usize> {
    let few = |column: &Column| {
        let repeated = column.distinct().is_some_and(|n| n >= 2 && n * 5 <= columns.rows.max(10));
        repeated && column.mean_size() <= 30.0
    };
    let all = || columns.columns.iter().enumerate();
    let found = all().filter(|(_, column)| few(column)).min_by_key(|(_, column)| column.distinct());
    found.or_else(|| all().find(|(_, column)| column.is_number())).map(|(i, _)| i)
}

fn text_only(columns: &Columns, family: Option<&str>) -> Option<Proposal> {
    let only = match columns.columns.as_slice() {
        [one] if one.is_text() => Some(one),
        _ => None,
    };
    let text = columns.find(TEXTS, Column::is_text).or(only)?;
    let settings = named("text_column", &text.name, "text").into_iter().collect();
    let why = format!("texts in column {:?}, and no labels", text.name);
    Some(Proposal { kind: language_model(family), settings, texts: Vec::new(), why })
}

#[cfg(test)]
mod tests {
    use super::super::names::usual_names;
    use super::*;
    use crate::text::survey::survey;

    /// The task and the settings that follow from a file.
    fn of(name: &str, content: &str, family: Option<&str>) -> Result<(TaskKind, String), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let proposal = propose(&survey(&path, &usual_names()).map_err(|e| e.to_string())?, family)?;
        let settings: Vec<String> = proposal.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok((proposal.kind, settings.join(" ")))
    }

    #[test]
    fn tasks_follow_from_columns() {
        for (name, line, kind, settings) in [
            ("a.jsonl", r#"{"text": "a b", "label": "x"}"#, TaskKind::SequenceClassification, ""),
            (
                "a.jsonl",
                r#"{"premise": "a", "hypothesis": "b", "gold_label": "x"}"#,
                TaskKind::SequenceClassification,
                "text_column=\"premise\" text_pair_column=\"hypothesis\" label_column=\"gold_label\"",
            ),
            ("a.jsonl", r#"{"text": "a", "labels": ["x", "y"]}"#, TaskKind::MultiLabel, "label_column=\"labels\""),
            (
                "a.jsonl",
                r#"{"sentence1": "a", "sentence2": "b", "score": 0.5}"#,
                TaskKind::Regression,
                "text_column=\"sentence1\" text_pair_column=\"sentence2\" label_column=\"score\"",
            ),
            (
                "a.jsonl",
                r#"{"tokens": ["a", "b"], "ner_tags": [0, 1]}"#,
                TaskKind::TokenClassification,
                "words_column=\"tokens\" tags_column=\"ner_tags\"",
            ),
            (
                "a.jsonl",
                r#"{"question": "q", "options": ["a", "b"], "answer": "A"}"#,
                TaskKind::MultipleChoice,
                "choices_column=\"options\" label_column=\"answer\"",
            ),
            (
                "a.jsonl",
                r#"{"id": "1", "context": "c", "question": "q", "answers": {"text": ["c"]}}"#,
                TaskKind::QuestionAnswering,
                "",
            ),
            ("a.jsonl", r#"{"conversations": [{"from": "human", "value": "x"}]}"#, TaskKind::Chat, ""),
            (
                "a.jsonl",
                r#"{"chosen": [{"role": "user"}], "rejected": [{"role": "user"}]}"#,
                TaskKind::Chat,
                "messages_column=\"chosen\"",
            ),
            ("a.jsonl", r#"{"instruction": "a", "input": "", "output": "c"}"#, TaskKind::Chat, ""),
            (
                "a.csv",
                "question,answer\nwhy,so\n",
                TaskKind::Chat,
                "prompt_column=\"question\" completion_column=\"answer\"",
            ),
            (
                "a.csv",
                "article,highlights\nlong,short\n",
                TaskKind::Seq2seq,
                "source_column=\"article\" target_column=\"highlights\"",
            ),
            (
                "a.jsonl",
                r#"{"anchor": "a", "positive": "b", "negative": ["c"]}"#,
                TaskKind::Embedding,
                "text_column=\"anchor\" text_pair_column=\"positive\" negative_column=\"negative\"",
            ),
            ("a.jsonl", r#"{"text": "a", "url": "u"}"#, TaskKind::CausalLm, ""),
            ("a.txt", "a", TaskKind::CausalLm, ""),
            ("a.conll", "a O", TaskKind::TokenClassification, ""),
        ] {
            assert_eq!(of(name, line, None), Ok((kind, settings.to_owned())), "{line}");
        }
        assert_eq!(of("a.txt", "a", Some("bert")), Ok((TaskKind::MaskedLm, String::new())));
        let instruction = r#"{"instruction": "a", "output": "c"}"#;
        let settings = "source_column=\"instruction\" target_column=\"output\"".to_owned();
        assert_eq!(of("a.jsonl", instruction, Some("t5")), Ok((TaskKind::Seq2seq, settings)));
        let unknown = of("a.jsonl", r#"{"x": 1, "y": [2]}"#, None).unwrap_err();
        assert!(unknown.starts_with("no task is known for the columns \"x\", \"y\""), "{unknown}");
    }

    #[test]
    fn tables_without_a_header_get_names() {
        let rows: String = (0..30).map(|i| format!("a sentence about the number {i}\t{}\n", i % 2)).collect();
        let found = of("a.tsv", &rows, None).unwrap();
        assert_eq!(found, (TaskKind::SequenceClassification, "columns=[\"text\", \"label\"]".to_owned()));
        let row =
            |i: usize| format!("{}\tthe first of the texts {i}\tthe second of the texts {i}\n", i as f64 * 0.25 % 5.0);
        let rows: String =
            (0..200).map(row).chain(["\tno score is here at all\tnor is one here\n".to_owned()]).collect();
        let columns = "columns=[\"label\", \"text\", \"text_pair\"] text_pair_column=\"text_pair\"";
        let skip = "on_bad_record=\"skip\" # some records have no label";
        assert_eq!(of("a.tsv", &rows, None), Ok((TaskKind::Regression, format!("{columns} {skip}"))));
    }
}
