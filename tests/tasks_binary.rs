//! Sequence classification with two labels: F1 of the positive one, ROC-AUC and average precision, the same at any number
//! of ranks; and a classifier that predicts a single class.

mod common;

use common::process::{run, trainer};
use common::runs::Bench;
use common::scenarios::train;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use trainer::checkpoint::run_dir::Resume;

const METRICS: [&str; 3] = ["eval_binary_f1", "eval_roc_auc", "eval_average_precision"];

/// The records of a file with other labels.
fn relabel(path: &Path, label: impl Fn(usize, &str) -> &'static str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let relabelled = |(i, line)| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record["label"] = json!(label(i, record["label"].as_str().unwrap()));
        record
    };
    let records: Vec<Value> = text.lines().enumerate().map(relabelled).collect();
    fs::write(path, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
    records
}

/// Data with the labels no and yes, and the records to evaluate on.
fn bench() -> (Bench, Vec<Value>) {
    let bench = Bench::new("bert-classification");
    let of = |_, label: &str| if label == "sport" { "yes" } else { "no" };
    relabel(&bench.path("train.jsonl"), of);
    let records = relabel(&bench.path("eval.jsonl"), of);
    (bench, records)
}

#[test]
fn evaluations_tell_what_predictions_are_worth() {
    let (bench, records) = bench();
    let best = ["eval_steps=10", "load_best_model_at_end=true", "metric_for_best_model=roc_auc", "max_steps=20"];
    let ended = run(trainer(&bench).args(train(&bench, "run", &best))).expect(0);
    assert!(ended.stderr.contains("(2 labels: no, yes; positive: yes)"), "{}", ended.text());
    let logged = bench.lines("run", "eval_loss");
    let highest = logged.iter().map(|line| line["eval_roc_auc"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!(bench.summary("run")["best_metric"], json!(highest));

    let evaluate = ["evaluate", "--model", "run/final", "--data", "eval.jsonl"];
    let found = run(trainer(&bench).args(evaluate).arg("--json")).expect(0).stdout;
    let found: Value = serde_json::from_str(found.trim()).unwrap();
    assert_eq!(found["positive_label"], "yes");
    let same = logged.iter().find(|line| line["eval_roc_auc"] == json!(highest)).unwrap();
    METRICS.iter().for_each(|name| assert_eq!(found[name], same[name], "{name}: {found} {same}"));
    let table = run(trainer(&bench).args(evaluate)).expect(0).stdout;
    assert!(table.contains("roc_auc") && table.contains("positive label"), "{table}");

    // The metrics of each class follow from the confusion matrix.
    let report = run(trainer(&bench).args(evaluate).args(["--json", "--report"])).expect(0).stdout;
    let report: Value = serde_json::from_str::<Value>(report.trim()).unwrap()["report"].take();
    let matrix: Vec<Vec<f64>> = serde_json::from_value(report["confusion_matrix"]["counts"].clone()).unwrap();
    assert_eq!(report["confusion_matrix"]["labels"], json!(["no", "yes"]));
    let [[a, b], [c, d]] = [[matrix[0][0], matrix[0][1]], [matrix[1][0], matrix[1][1]]];
    assert_eq!(found["eval_accuracy"], json!((a + d) / (a + b + c + d)));
    let yes = &report["classes"]["yes"];
    assert_eq!((yes["support"].as_f64(), yes["f1"].as_f64()), (Some(c + d), found["eval_binary_f1"].as_f64()));
    assert_eq!(yes["recall"], json!(d / (c + d)));
    let table = run(trainer(&bench).args(evaluate).arg("--report")).expect(0).stdout;
    assert!(table.contains("weighted avg") && table.contains("true \\ predicted"), "{table}");

    // By the definitions, from the predictions.
    let predict = ["predict", "--model", "run/final", "--input", "eval.jsonl", "--scores"];
    let lines = run(trainer(&bench).args(predict)).expect(0).stdout;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let examples: Vec<(f64, bool)> = lines
        .iter()
        .zip(&records)
        .map(|(line, record)| {
            let logit = |i: usize| line["logits"][i].as_f64().unwrap();
            (logit(1) - logit(0), record["label"] == "yes")
        })
        .collect();
    let scores = |class: bool| examples.iter().filter(move |example| example.1 == class).map(|example| example.0);
    let (mut won, mut pairs) = (0.0, 0.0);
    for positive in scores(true) {
        for negative in scores(false) {
            won += if positive > negative { 1.0 } else { f64::from(u8::from(positive == negative)) / 2.0 };
            pairs += 1.0;
        }
    }
    let precisions = scores(true).map(|threshold| {
        let chosen = |class: bool| scores(class).filter(|score| *score >= threshold).count() as f64;
        chosen(true) / (chosen(true) + chosen(false))
    });
    let average_precision = precisions.sum::<f64>() / scores(true).count() as f64;
    let said = |line: &&Value| line["label"] == "yes";
    let right = lines.iter().zip(&records).filter(|(line, record)| said(line) && record["label"] == "yes").count();
    let f1 = 2.0 * right as f64 / (lines.iter().filter(said).count() + scores(true).count()) as f64;
    for (name, expected) in METRICS.iter().zip([f1, won / pairs, average_precision]) {
        let found = found[name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{name}: {found}, expected {expected}");
    }
    assert!(pairs > 50.0);
}

#[test]
fn ranks_change_nothing() {
    let (bench, _) = bench();
    // Steps too small to change a weight: every run evaluates the same model.
    let settings = ["learning_rate=1e-20", "max_steps=1", "weight_decay=0"];
    let evaluated = |world: usize| {
        let out = format!("run-{world}");
        bench.run(world, &out, &settings, &Resume::None).unwrap();
        let last = bench.lines(&out, "eval_loss").pop().unwrap();
        METRICS.map(|name| last[name].as_f64().unwrap().to_bits())
    };
    let one = evaluated(1);
    for world in [2, 3, 5] {
        assert_eq!(evaluated(world), one, "on {world} ranks");
    }
}

#[test]
fn a_single_class_is_warned_of() {
    let (bench, _) = bench();
    relabel(&bench.path("train.jsonl"), |i, _| if i < 3 { "yes" } else { "no" });
    let ended = run(trainer(&bench).args(train(&bench, "run", &["max_steps=20"]))).expect(0);
    let lines: Vec<&str> = ended.stderr.lines().skip_while(|line| !line.starts_with("warning: ")).collect();
    assert!(lines[0].starts_with("warning: all 23 predictions are \"no\", although "), "{}", ended.text());
    assert!(lines.iter().take(3).all(|line| line.chars().count() <= 80), "{}", ended.text());
    assert_eq!(ended.stderr.matches("warning: ").count(), 1, "{}", ended.text());

    let evaluate = ["evaluate", "--model", "run/final", "--data", "eval.jsonl", "--json"];
    let ended = run(trainer(&bench).args(evaluate)).expect(0);
    assert!(ended.stderr.contains("warning: all 23 predictions are \"no\""), "{}", ended.text());
    assert_eq!(ended.stdout.lines().count(), 1);
    let logs = ["--log-format", "json"];
    let ended = run(trainer(&bench).args(evaluate).args(logs)).expect(0);
    let events: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["level"] == "WARN"), "{}", ended.text());
}

#[test]
fn metrics_of_two_labels_need_two() {
    let bench = Bench::new("bert-classification");
    let ended = run(trainer(&bench).args(train(&bench, "run", &["metric_for_best_model=auc"]))).expect(2);
    assert!(ended.stderr.contains("train.metric_for_best_model: found \"auc\": use \"roc_auc\""), "{}", ended.text());
    let ended = run(trainer(&bench).args(train(&bench, "run", &["metric_for_best_model=roc_auc"]))).expect(2);
    assert!(ended.stderr.contains("roc_auc is for two labels, and there are 3 in the data"), "{}", ended.text());
}
