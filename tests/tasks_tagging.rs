//! Token classification, multi-label classification and multiple choice, from a data file to metrics and predictions.

mod common;

use common::page::{Table, table};
use common::process::{run, trainer};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::train;
use common::tagging::{CHOICES, LABELS, Scenario, TAGS, evaluated, predicted, trained};
use serde_json::{Value, json};
use std::fs;
use trainer::checkpoint::run_dir::Resume;

/// Trains, and holds evaluation against the run's own and predictions against the file, record by record: `right` says
/// how many of how many answers of a line are right.
fn round_trip(scenario: &Scenario, right: impl Fn(&Value, usize) -> (usize, usize)) -> RoundTrip {
    let (bench, last) = trained(scenario, trainer);
    let (metric, least) = scenario.learns;
    let metric = format!("eval_{metric}");
    assert!(last[&metric].as_f64().unwrap() > least, "{last}");
    let evaluated = evaluated(scenario, &bench, trainer);
    for (name, value) in evaluated.as_object().unwrap() {
        let difference = (value.as_f64().unwrap() - last[name].as_f64().unwrap()).abs();
        assert!(difference < 1e-6, "{name}: {evaluated} {last}");
    }
    let Table { head, rows } = table(&bench.path("run"), "Evaluations").unwrap();
    for (name, cell) in head.iter().zip(rows.last().unwrap()).skip(1) {
        let value = last[&format!("eval_{name}")].as_f64().unwrap();
        assert!((cell.parse::<f64>().unwrap() - value).abs() <= 5e-5, "{name}: {rows:?} {last}");
    }
    let (lines, said) = predicted(scenario, &bench, trainer);
    let counts: Vec<(usize, usize)> = lines.iter().enumerate().map(|(i, line)| right(line, i)).collect();
    let (right, all): (Vec<usize>, Vec<usize>) = counts.into_iter().unzip();
    let accuracy = right.iter().sum::<usize>() as f64 / all.iter().sum::<usize>() as f64;
    assert!((accuracy - evaluated["eval_accuracy"].as_f64().unwrap()).abs() < 1e-12, "{accuracy}: {evaluated}");
    assert_eq!(lines.len(), 41);
    RoundTrip { worst: table(&bench.path("run"), "Worst errors at step 60"), lines, said }
}

struct RoundTrip {
    /// The table of the run's report, if there are errors.
    worst: Option<Table>,
    /// The predictions.
    lines: Vec<Value>,
    /// What `predict` said.
    said: String,
}

#[test]
fn words_are_tagged() {
    let text = (TAGS.data)(41, 2);
    let words: Vec<Vec<(&str, &str)>> =
        text.split("\n\n").map(|s| s.lines().map(|line| line.split_once('\t').unwrap()).collect()).collect();
    let sentences: Vec<Vec<&str>> = words.iter().map(|words| words.iter().map(|(_, tag)| *tag).collect()).collect();
    assert!(sentences.iter().any(|s| s.len() > 14), "some are cut");
    let RoundTrip { worst, lines, said } = round_trip(&TAGS, |line, i| {
        let tags = line["tags"].as_array().unwrap();
        assert_eq!((tags.len(), line["logits"].as_array().unwrap().len()), (sentences[i].len(), sentences[i].len()));
        assert!(tags.iter().skip(14).all(|tag| tag == "O"), "cut off: {line}");
        (tags.iter().zip(&sentences[i]).filter(|(found, tag)| *found == *tag).count(), tags.len())
    });
    assert!(said.contains("truncated to max_length") && said.contains("words have no token"), "{said}");
    let entities = |i: usize, tags: &[&str]| {
        let of_words = tags.iter().zip(&words[i]).enumerate().filter(|(_, (tag, _))| **tag != "O");
        // The text of a word that is cut off is not known.
        let named = of_words.map(|(at, (tag, word))| format!("{}: {}", &tag[2..], if at < 14 { word.0 } else { "" }));
        named.collect::<Vec<_>>().join("; ")
    };
    let worst = worst.unwrap();
    assert_eq!(worst.head, ["example", "label", "predicted", "wrong words", "words", "loss", "text"]);
    for row in &worst.rows {
        let i = row[0].parse::<usize>().unwrap() - 1;
        let found: Vec<&str> = lines[i]["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
        let wrong = found.iter().zip(&sentences[i]).filter(|(found, tag)| found != tag).count();
        assert_eq!(row[1..3], [entities(i, &sentences[i]), entities(i, &found)], "{row:?}");
        assert_eq!(row[3..5], [wrong.to_string(), sentences[i].len().to_string()], "{row:?}");
        assert_eq!(row[6], words[i].iter().take(14).map(|(word, _)| *word).collect::<Vec<_>>().join(" "), "{row:?}");
    }
    assert!(worst.rows.len() > 3, "the sentences that are cut: {worst:?}");
}

/// Tags go with their words: the same steps on one rank and on two.
#[test]
fn augmented_tags_agree_at_two_worlds() {
    let bench = Bench::new("bert-classification");
    fs::write(bench.path("train.conll"), (TAGS.data)(60, 1)).unwrap();
    fs::write(bench.path("eval.conll"), (TAGS.data)(20, 2)).unwrap();
    let synonyms = bench.path("synonyms.txt");
    fs::write(&synonyms, "after, again, age\na => b\n").unwrap();
    let files = [
        format!("data.train={}", bench.path("train.conll").display()),
        format!("data.eval={}", bench.path("eval.conll").display()),
        format!("augment.synonyms={}", synonyms.display()),
    ];
    let more = ["task.kind=token-classification", "data.max_length=16", "max_steps=8", "classifier_dropout=0"];
    let changes = ["augment.delete=0.2", "augment.swap=0.2", "augment.mask=0.1", "augment.replace=0.5"];
    let plain: Vec<&str> = more.iter().copied().chain(files[..2].iter().map(String::as_str)).collect();
    let changed = [&plain[..], &changes, &[files[2].as_str()]].concat();
    bench.run(1, "plain", &plain, &Resume::None).unwrap();
    bench.run(1, "one", &changed, &Resume::None).unwrap();
    bench.run(2, "two", &[&changed[..], &["micro_batch_tokens=40"]].concat(), &Resume::None).unwrap();
    assert_equivalent(&bench.steps("two"), &bench.steps("one"), "two ranks");
    assert!((bench.steps("plain")[0].0 - bench.steps("one")[0].0).abs() > 1e-4, "the changes change the loss");
}

#[test]
fn texts_get_any_number_of_labels() {
    let text = (LABELS.data)(41, 2);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().any(|record| record["topics"] == json!([])), "an example without a label is valid");
    let RoundTrip { worst, lines, .. } = round_trip(&LABELS, |line, i| {
        assert_eq!(line["scores"].as_object().unwrap().len(), 2, "{line}");
        (usize::from(line["labels"] == records[i]["topics"]), 1)
    });
    let names = |labels: &Value| {
        labels.as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect::<Vec<_>>().join(", ")
    };
    assert_listed(worst, ["loss"], 41, |i| [names(&records[i]["topics"]), names(&lines[i]["labels"])]);
}

/// The examples of a report without texts are those of which label and prediction differ.
fn assert_listed<const N: usize>(
    worst: Option<Table>,
    numbers: [&str; N],
    examples: usize,
    of: impl Fn(usize) -> [String; 2],
) {
    let wrong = (0..examples).filter(|&i| of(i)[0] != of(i)[1]).count();
    let Some(Table { head, rows }) = worst else { return assert_eq!(wrong, 0) };
    assert_eq!(
        (&head[..3], &head[3..]),
        (&["example", "label", "predicted"].map(String::from)[..], &numbers.map(String::from)[..])
    );
    assert_eq!(rows.len(), wrong.min(30), "{rows:?}");
    let losses: Vec<f64> = rows.iter().map(|row| row[head.len() - 1].parse().unwrap()).collect();
    assert!(losses.is_sorted_by(|a, b| a >= b), "{losses:?}");
    for row in rows {
        assert_eq!(row[1..3], of(row[0].parse::<usize>().unwrap() - 1), "{row:?}");
    }
}

#[test]
fn choices_are_made() {
    let text = (CHOICES.data)(41, 2);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let label = |i: usize| match &records[i]["label"] {
        Value::String(letter) => json!(letter.as_bytes()[0] - b'A'),
        index => index.clone(),
    };
    let RoundTrip { worst, lines, said } = round_trip(&CHOICES, |line, i| {
        assert_eq!(line["scores"].as_array().unwrap().len(), records[i]["options"].as_array().unwrap().len());
        (usize::from(line["label"] == label(i)), 1)
    });
    assert_listed(worst, ["score", "loss"], 41, |i| {
        [label(i), lines[i]["label"].clone()].map(|label| label.to_string())
    });
    assert!(said.contains("truncated to max_length"), "{said}");
}

/// A mistake in a file: one message with its file and line, before training.
#[test]
fn bad_records_are_told_with_file_and_line() {
    let bench = Bench::new("bert-classification");
    let cases = [
        ("token-classification", "a.conll", "all O\nage B-x\n\nagain\n", "a.conll:4: the word \"again\" has no tag"),
        (
            "token-classification",
            "a.jsonl",
            "{\"words\": [\"a\", \"b\"], \"tags\": [\"O\", \"B-x\"]}\n{\"words\": [\"a\"], \"tags\": []}\n",
            "a.jsonl:2: the list in column \"tags\" is empty",
        ),
        (
            "multi-label",
            "b.jsonl",
            "{\"text\": \"a\", \"label\": \"x\"}\n",
            "b.jsonl:1: column \"label\" is a string; it must be a list",
        ),
        ("multi-label", "b.csv", "text,label\na,\nb,\n", "has no labels"),
        (
            "multiple-choice",
            "c.jsonl",
            "{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n\n{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"label\": 2}\n",
            "c.jsonl:3: the label 2 matches none of the 2 choices",
        ),
        (
            "multiple-choice",
            "d.jsonl",
            "{\"question\": \"a\", \"choices\": [\"x\"], \"label\": 0}\n",
            "d.jsonl:1: a question needs at least two choices",
        ),
        ("multiple-choice", "e.csv", "question,choices,label\n", "needs lists: JSONL"),
    ];
    for (kind, name, content, says) in cases {
        fs::write(bench.path(name), content).unwrap();
        let [kind, name] = [format!("task.kind={kind}"), format!("data.train={name}")];
        let ended = run(trainer(&bench).args(train(&bench, "run", &[&kind, &name]))).expect(2);
        assert_eq!(ended.text().matches("trainer: error: ").count(), 1, "{}", ended.text());
        assert!(ended.stderr.contains(says), "{says}: {}", ended.text());
    }
    let wrong = ["task.kind=token-classification", "data.format=csv"];
    let ended = run(trainer(&bench).args(train(&bench, "run", &wrong))).expect(2);
    assert!(
        ended.stderr.contains("data.format: token-classification reads conll, jsonl, parquet, arrow, not csv"),
        "{}",
        ended.text()
    );
}
