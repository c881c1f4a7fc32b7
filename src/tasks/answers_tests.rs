//! Compares selected answers with those of the transformers example.

use super::*;
use crate::data::{Collation, Dataset};

/// Answers selected by the code of the transformers example from random scores (`tests/reference/answers.py`).
const CASES: &str = include_str!("../../tests/reference/answers.json");

/// Calls `check` with each case and its results (one question).
fn on_all(check: impl Fn(&Value, &Results)) {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() > 20);
    for case in &cases {
        let windows = case["windows"].as_array().unwrap();
        let places: Vec<&Value> = windows.iter().map(|window| &window["place"]).collect();
        let references = json!({
            "rules": case["rules"],
            "unanswerable": false,
            "contexts": [{"text": case["text"], "offsets": case["offsets"]}],
            "questions": [{"id": "q", "context": 0, "golds": [case["answer"]], "windows": places}],
        });
        let (mut answers, mut offsets) = (Vec::new(), vec![0]);
        for window in windows {
            let scores: Vec<[f32; 2]> = Vec::deserialize(&window["scores"]).unwrap();
            answers.extend_from_slice(scores.as_flattened());
            offsets.push(answers.len());
        }
        let dataset = Dataset::new([], Collation::Plain, [0; 32]);
        let (references, answers, offsets) = (&references, &answers[..], &offsets[..]);
        check(case, &Results { dataset: &dataset, references, answers, offsets, losses: &[] });
    }
}

fn close(a: &Value, b: &Value) -> bool {
    a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| (a - b).abs() < 1e-6)
}

#[test]
fn answers_match_the_transformers_example() {
    on_all(|case, results| {
        // The rules set `version_2_with_negative`, so `learnt` has no effect.
        for learnt in [false, true] {
            let line = predictions(results, learnt, true).remove(0);
            assert_eq!((&line["id"], &line["answer"]), (&json!("q"), &case["answer"]), "{case}");
            let (n_best, wanted) = (line["n_best"].as_array().unwrap(), case["n_best"].as_array().unwrap());
            assert_eq!(n_best.len(), wanted.len(), "{case}");
            for (found, wanted) in n_best.iter().zip(wanted) {
                assert_eq!(found["answer"], wanted[0], "{case}");
                let keys = ["start_logit", "end_logit", "score"];
                assert!(keys.iter().zip(1..).all(|(key, i)| close(&found[key], &wanted[i])), "{found}: {case}");
            }
            let chosen = n_best.iter().find(|found| found["answer"] == line["answer"]);
            assert_eq!(chosen.map_or(&json!(0.0), |chosen| &chosen["score"]), &line["score"], "{case}");
            let diff = line.get("null_score_diff").unwrap_or(&Value::Null);
            assert!(diff == &case["null_score_diff"] || close(diff, &case["null_score_diff"]), "{diff}: {case}");
        }
    });
}

#[test]
fn metrics_are_computed_per_question() {
    on_all(|case, results| {
        let found: Map<String, Value> =
            metrics(results, false).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let names: Vec<&String> = found.keys().collect();
        if case["rules"]["version_2_with_negative"] == true {
            assert_eq!(names, ["exact_match", "f1", "HasAns_exact", "HasAns_f1"]);
        } else {
            assert_eq!(names, ["exact_match", "f1"]);
        }
        assert_eq!(found["exact_match"], 100.0, "{case}");
    });
}

#[test]
fn questions_without_an_exact_match_are_listed() {
    on_all(|case, results| {
        assert!(worst(results, false, true, 9).rows.is_empty(), "{case}");
        let mut references = results.references.clone();
        references["questions"][0]["golds"] = json!(["something", "else"]);
        let results = Results { references: &references, ..*results };
        let row = worst(&results, false, true, 9).rows.remove(0);
        assert_eq!((&*row.label, &*row.predicted), ("something | else", case["answer"].as_str().unwrap()), "{case}");
        assert_eq!((row.example, row.numbers[0]), (0, 0.0), "{case}");
        assert_eq!(json!(row.numbers[1]), predictions(&results, false, false)[0]["score"], "{case}");
        let row = worst(&results, false, false, 9).rows.remove(0);
        assert_eq!((&*row.label, &*row.predicted), ("", ""), "no texts without texts: {case}");
    });
}

#[test]
fn the_largest_come_first() {
    let values = [1.0, 3.0, 2.0, 3.0, 0.0];
    assert_eq!(largest(values.into_iter(), 3), [1, 3, 2]);
    assert_eq!(largest(values.into_iter(), 9), [1, 3, 2, 0, 4]);
}
