//! Tests of reading questions.

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
fn records_may_have_nan() {
    let dir = tempfile::tempdir().unwrap();
    let record = |id: &str| {
        format!("{{\"id\": {id:?}, \"x\": NaN, \"context\": \"c\", \"question\": \"?\", \"answers\": []}}\n")
    };
    let read = read(&source(&dir, "a.json", &(record("q1") + &record("q2")))).unwrap();
    assert_eq!(read.records.iter().map(|question| question.id.as_str()).collect::<Vec<_>>(), ["q1", "q2"]);
}

#[test]
fn a_misplaced_answer_is_reported_with_its_question() {
    let at =
        |start| format!(r#"{{"id": "q9", "question": "?", "answers": [{{"text": "1999", "answer_start": {start}}}]}}"#);
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
    let expected = "2: not in SQuAD's format (data, paragraphs, context, qas): missing field `data`";
    assert_eq!(message("{\"text\": 1,\n\"b\": 2}"), expected);
    assert!(message("{\"text\": 1}").starts_with("1: question \"1\": it has no context"));
    assert!(message("\n{\"data\": 1}").starts_with("2: not in SQuAD's format"));
    assert!(message("{\"data\": [{\"paragraphs\": [\n{\"qas\": []}]}]}").starts_with("2: not in SQuAD's format"));
    assert!(message("{\"data\": []}").ends_with("the data set is empty: the file contains no record"));
}

#[test]
fn a_json_array_has_questions_and_ids_are_unique_over_files() {
    let dir = tempfile::tempdir().unwrap();
    let record = r#"{"context": "a b", "question": "?", "answers": [{"text": "b", "answer_start": 2}], "id": null}"#;
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
    // As `Dataset.to_json` of `datasets` writes it.
    let json = self::source(&dir, "a.json", &format!("\n{}\n", content.join("\n")));
    let found: Vec<_> = read(&json).unwrap().records.into_iter().map(|question| (question.line, question.id)).collect();
    assert_eq!(found, [(2, "2".to_owned()), (3, "x".to_owned())]);
    std::fs::write(&source.files.paths()[0], "{\"id\": \"q\", \"question\": \"?\"}").unwrap();
    let message = read(&source).unwrap_err().to_string();
    assert!(message.contains("a.jsonl:1: question \"q\": it has no context"), "{message}");
}
