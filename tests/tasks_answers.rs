//! Question answering as a person uses it: train, evaluate, predict; and what is told of mistakes.

mod common;

use common::process::{Ended, run, trainer};
use common::runs::{Bench, Lcg};
use serde_json::{Map, Value, json};
use std::fs;

/// Words of the model's vocabulary, and one that is none of them.
const WORDS: [&str; 8] = ["goal", "team", "match", "cloud", "rain", "storm", "moon", "caf\u{e9}"];

/// A model without a head, and questions in SQuAD's form and as JSONL: "where is WORD" on texts longer than a window.
struct Questions {
    bench: Bench,
}

impl Questions {
    fn new() -> Self {
        let questions = Questions { bench: Bench::new("bert-classification") };
        questions.write("train", 40, 1);
        questions.write("eval", 13, 2);
        questions
    }

    /// Every fifth question has no answer.
    fn write(&self, name: &str, n: usize, seed: u64) {
        let mut random = Lcg(seed);
        let question = |i: usize| {
            let wanted = random.below(7) as usize;
            let others: Vec<&str> = (0..30).map(|_| WORDS[(wanted + 1 + random.below(7) as usize) % 8]).collect();
            let place = random.below(30) as usize;
            let mut words = others.clone();
            if i % 5 != 4 {
                words[place] = WORDS[wanted];
            }
            let start = words[..place].iter().map(|word| word.chars().count() + 1).sum::<usize>();
            let answers = if i % 5 == 4 { json!([]) } else { json!([{"text": words[place], "answer_start": start}]) };
            let question = format!("where is {}", WORDS[wanted]);
            json!({"id": format!("q{i}"), "question": question, "answers": answers, "context": words.join(" ")})
        };
        let all: Vec<Value> = (0..n).map(question).collect();
        let lines: String = all.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.bench.path(&format!("{name}.jsonl")), lines).unwrap();
        let paragraphs: Vec<Value> =
            all.iter().map(|q| json!({"context": q["context"], "qas": [{"id": q["id"], "question": q["question"], "answers": q["answers"]}]})).collect();
        let squad = json!({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]});
        fs::write(self.bench.path(&format!("{name}.json")), serde_json::to_string_pretty(&squad).unwrap()).unwrap();
    }

    fn train(&self, out: &str, more: &[&str]) -> Ended {
        let path = |name: &str| self.bench.path(name).display().to_string();
        let own = [
            "task.kind=question-answering".to_owned(),
            format!("data.train={}", path("train.json")),
            format!("data.eval={}", path("eval.jsonl")),
            "data.max_length=24".to_owned(),
            "task.doc_stride=4".to_owned(),
        ];
        let settings = self.bench.settings(out, &[]).into_iter().chain(own).chain(more.iter().map(|&s| s.to_owned()));
        run(trainer(&self.bench).arg("train").args(settings))
    }

    fn run(&self, args: &[&str]) -> Ended {
        run(trainer(&self.bench).args(args))
    }

    fn evaluate(&self, model: &str, data: &str, more: &[&str]) -> Map<String, Value> {
        let args = ["evaluate", "--model", model, "--task", "question-answering", "--data", data, "--json"];
        let ended = self.run(&[&args[..], &WINDOWS, more].concat()).expect(0);
        serde_json::from_str(ended.stdout.trim()).unwrap()
    }

    fn predict(&self, model: &str, input: &str, more: &[&str]) -> Vec<Value> {
        let args = ["predict", "--model", model, "--input", input, "--output", "out.jsonl"];
        let ended = self.run(&[&args[..], &WINDOWS, more].concat()).expect(0);
        let lines: Vec<Value> = self.lines("out.jsonl");
        assert!(ended.stderr.contains(&format!("{} predictions written", lines.len())), "{}", ended.text());
        lines
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.bench.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

const WINDOWS: [&str; 4] = ["--max-length", "24", "--doc-stride", "4"];

/// The last evaluation of training, again from the model that it wrote; and one line predicted for each question.
#[test]
fn evaluate_and_predict_use_what_training_wrote() {
    let questions = Questions::new();
    let ended =
        questions.train("run", &["eval_steps=10", "metric_for_best_model=f1", "load_best_model_at_end=true"]).expect(0);
    for told in ["40 questions in ", "8 without an answer", "13 questions in ", "2 without an answer"] {
        assert!(ended.stderr.contains(told), "{told}: {}", ended.text());
    }
    let config: Value =
        serde_json::from_str(&fs::read_to_string(questions.bench.path("run/final/config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["architectures"][0], &config["version_2_with_negative"]),
        (&json!("BertForQuestionAnswering"), &json!(true))
    );
    // As many outputs as `transformers` makes of the labels, whatever the classes of the initial model were.
    assert_eq!(config["id2label"], json!({"0": "LABEL_0", "1": "LABEL_1"}));

    let found = questions.evaluate("run/checkpoint-20", "eval.json", &[]);
    let names: Vec<&String> = found.keys().collect();
    let all = [
        "eval_loss",
        "eval_exact_match",
        "eval_f1",
        "eval_HasAns_exact",
        "eval_HasAns_f1",
        "eval_NoAns_exact",
        "eval_NoAns_f1",
    ];
    assert_eq!(names, all);
    let logged = questions.bench.lines("run", "eval_loss").pop().unwrap();
    names.iter().for_each(|&name| assert_eq!(found[name], logged[name], "{name}"));

    let truth = questions.lines("eval.jsonl");
    let lines = questions.predict("run/checkpoint-20", "eval.jsonl", &["--scores"]);
    assert_eq!(lines.len(), truth.len());
    let right = lines.iter().zip(&truth).filter(|(line, truth)| {
        let gold = truth["answers"].get(0).map_or(&json!(""), |answer| &answer["text"]).clone();
        let (answer, context) = (line["answer"].as_str().unwrap(), truth["context"].as_str().unwrap());
        assert!(line["id"] == truth["id"] && context.contains(answer), "{line}");
        let sum: f64 = line["n_best"].as_array().unwrap().iter().map(|one| one["score"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9 && line["null_score_diff"].is_f64(), "{line}");
        assert_eq!(answer.is_empty(), line["null_score_diff"].as_f64().unwrap() > 0.0, "{line}");
        gold == answer
    });
    let exact = 100.0 * right.count() as f64 / truth.len() as f64;
    assert!((exact - found["eval_exact_match"].as_f64().unwrap()).abs() < 1e-9);

    // The same from the other form of file; the answers in a file do not matter.
    let unlabelled: String = truth
        .iter()
        .map(|line| {
            format!("{}\n", json!({"id": line["id"], "question": line["question"], "context": line["context"]}))
        })
        .collect();
    fs::write(questions.bench.path("new.jsonl"), unlabelled).unwrap();
    assert_eq!(questions.predict("run/checkpoint-20", "eval.json", &["--scores"]), lines);
    assert_eq!(questions.predict("run/checkpoint-20", "new.jsonl", &["--scores"]), lines);
    let short = questions.predict("run/checkpoint-20", "new.jsonl", &[]);
    let keys: Vec<&String> = short[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "answer", "score"]);
}

#[test]
fn options_decide_what_an_answer_may_be() {
    let questions = Questions::new();
    questions.train("run", &["max_steps=2", "task.version_2_with_negative=false"]).expect(0);
    let model = "run/final";
    let answered = |more: &[&str]| -> Vec<String> {
        let lines = questions.predict(model, "eval.jsonl", more);
        lines.iter().map(|line| line["answer"].as_str().unwrap().to_owned()).collect()
    };
    assert!(answered(&[]).iter().all(|answer| !answer.is_empty()), "the model knows no questions without answers");
    let none = ["--version-2-with-negative", "true", "--null-score-diff-threshold", "-1000"];
    assert!(answered(&none).iter().all(String::is_empty));
    let never = ["--version-2-with-negative", "true", "--null-score-diff-threshold", "1000"];
    assert_eq!(answered(&never), answered(&["--version-2-with-negative", "false"]));
    let single = answered(&["--max-answer-length", "1", "--n-best-size", "60"]);
    assert!(single.iter().all(|answer| !answer.is_empty() && !answer.contains(' ')), "{single:?}");
    assert!(answered(&["--n-best-size", "60"]).iter().any(|answer| answer.contains(' ')));

    // The data has questions without answers, and that is enough for its rules.
    assert!(questions.evaluate(model, "eval.json", &[]).contains_key("eval_NoAns_f1"));
    let plain = questions.evaluate(model, "eval.json", &["--version-2-with-negative", "false"]);
    assert_eq!(plain.keys().collect::<Vec<_>>(), ["eval_loss", "eval_exact_match", "eval_f1"]);
}

#[test]
fn mistakes_name_the_file_and_the_line_or_the_setting() {
    let questions = Questions::new();
    let good = fs::read_to_string(questions.bench.path("train.json")).unwrap();
    let line_of = |id: &str| 1 + good.lines().position(|line| line.contains(&format!("{id:?}"))).unwrap();
    let spoilt = |what: &str, from: &str, to: &str| {
        let path = questions.bench.path(&format!("{what}.json"));
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        path.display().to_string()
    };
    let refused = |more: &[&str], says: &[&str]| {
        let ended = questions.train("bad", more).expect(2);
        says.iter().for_each(|part| assert!(ended.stderr.contains(part), "{part}: {}", ended.text()));
    };
    let start = good.lines().find(|line| line.contains("answer_start")).unwrap().trim();
    let file = spoilt("elsewhere", start, "\"answer_start\": 1");
    refused(
        &[&format!("data.train={file}")],
        &[&file, "question \"q0\": the answer ", "is not in its context at character 1"],
    );
    let file = spoilt("double", "\"q7\"", "\"q6\"");
    let line = line_of("q7") - 1;
    refused(&[&format!("data.train={file}")], &[&format!("{file}:{line}: question \"q6\": line "), "has the same id"]);
    let long = format!("\"where {}is", "is ".repeat(20));
    let file = spoilt("long", "\"where is", &long);
    refused(&[&format!("data.train={file}")], &[&file, "question \"q0\": the question has 47 of max_length = 24"]);
    refused(&["task.doc_stride=30"], &["question \"q0\"", "doc_stride = 30"]);
    refused(&["data.text_column=context"], &["text_column: questions come from SQuAD JSON"]);
    refused(&["task.n_best_size=0"], &["task.n_best_size: found the integer 0, expected an integer >= 1"]);
    refused(
        &["task.kind=regression"],
        &["task.doc_stride: is for question-answering, and task.kind is \"regression\""],
    );

    let args =
        ["evaluate", "--task", "sequence-classification", "--data", "eval.jsonl", "--doc-stride", "4", "--model"];
    let model = questions.bench.model.display().to_string();
    let ended = questions.run(&[&args[..], &[&model]].concat()).expect(2);
    assert!(ended.stderr.contains("--doc-stride applies to question-answering only"), "{}", ended.text());
}
