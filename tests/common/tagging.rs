//! Made-up data of words, of labels and of choices that small models can learn, and the way from training over
//! evaluation to predictions.

use super::process::run;
use super::runs::{Bench, Lcg};
use super::scenarios::{Launch, train};
use serde_json::{Value, json};
use std::fs;

/// Words of the small models' vocabulary; the type of an entity, or none, follows from the word.
const WORDS: [(&str, &str); 8] = [
    ("after", "O"),
    ("again", "O"),
    ("age", "O"),
    ("all", "O"),
    ("a", "time"),
    ("b", "time"),
    ("y", "place"),
    ("z", "place"),
];

/// A task: its data, and what a run on it must come to.
pub struct Scenario {
    pub kind: &'static str,
    pub extension: &'static str,
    /// The lines of `n` records.
    pub data: fn(n: usize, seed: u64) -> String,
    /// Settings of `train` beside the bench's.
    pub more: &'static [&'static str],
    /// The metric, and at least how much of it is learnt.
    pub learns: (&'static str, f64),
}

pub const TAGS: Scenario = Scenario {
    kind: "token-classification",
    extension: "conll",
    data: sentences,
    more: &["data.max_length=16", "metric_for_best_model=f1", "eval_steps=20", "report_texts=true"],
    learns: ("f1", 0.8),
};

pub const LABELS: Scenario = Scenario {
    kind: "multi-label",
    extension: "jsonl",
    data: texts,
    more: &["label_column=topics", "metric_for_best_model=micro_f1"],
    learns: ("micro_f1", 0.8),
};

pub const CHOICES: Scenario = Scenario {
    kind: "multiple-choice",
    extension: "jsonl",
    data: questions,
    more: &["data.max_length=24", "data.choices_column=options", "data.context_column=story"],
    learns: ("accuracy", 0.8),
};

fn pick(random: &mut Lcg, n: u64) -> Vec<(&'static str, &'static str)> {
    (0..n).map(|_| WORDS[random.below(WORDS.len() as u64) as usize]).collect()
}

/// Sentences in CoNLL; each word is an entity by itself or none, and some sentences do not fit the length.
fn sentences(n: usize, seed: u64) -> String {
    let mut random = Lcg(seed);
    let sentence = |_| {
        let n = 1 + random.below(19);
        let tag = |(word, kind)| if kind == "O" { format!("{word}\tO\n") } else { format!("{word}\tB-{kind}\n") };
        pick(&mut random, n).into_iter().map(tag).collect::<String>()
    };
    (0..n).map(sentence).collect::<Vec<_>>().join("\n")
}

/// Texts with the types of their words as labels, none among them.
fn texts(n: usize, seed: u64) -> String {
    let mut random = Lcg(seed);
    let text = |_| {
        let n = 1 + random.below(4);
        let picks = pick(&mut random, n);
        let words: Vec<&str> = picks.iter().map(|(word, _)| *word).collect();
        let labels: Vec<&str> =
            ["place", "time"].into_iter().filter(|l| picks.iter().any(|(_, kind)| kind == l)).collect();
        json!({"text": words.join(" "), "topics": labels}).to_string() + "\n"
    };
    (0..n).map(text).collect()
}

/// Questions with two to four choices, one of them a place.
fn questions(n: usize, seed: u64) -> String {
    let mut random = Lcg(seed);
    let question = |i: usize| {
        let n = 2 + random.below(3);
        let right = random.below(n) as usize;
        let mut choices: Vec<&str> = (0..n).map(|_| WORDS[random.below(6) as usize].0).collect();
        choices[right] = ["y", "z"][random.below(2) as usize];
        let story: Vec<&str> = pick(&mut random, 25).into_iter().map(|(word, _)| word).collect();
        let label = if i.is_multiple_of(2) { json!(right) } else { json!(["A", "B", "C", "D"][right]) };
        json!({"story": story.join(" "), "question": "all", "options": choices, "label": label}).to_string() + "\n"
    };
    (0..n).map(question).collect()
}

/// The columns of a scenario, as options of `evaluate` and `predict`.
fn options(scenario: &Scenario) -> Vec<String> {
    let option = |setting: &&str| {
        let (key, value) = setting.split_once('=')?;
        let key = key.trim_start_matches("data.");
        let is_option = key.ends_with("_column") || key == "max_length";
        is_option.then(|| [format!("--{}", key.replace('_', "-")), value.to_owned()])
    };
    scenario.more.iter().filter_map(option).flatten().collect()
}

/// A bench with the scenario's data and a model that was trained on them; returns the last evaluation.
pub fn trained(scenario: &Scenario, launch: Launch) -> (Bench, Value) {
    let bench = Bench::new("bert-classification");
    let file = |name: &str| bench.path(&format!("{name}.{}", scenario.extension));
    fs::write(file("learn"), (scenario.data)(160, 1)).unwrap();
    fs::write(file("check"), (scenario.data)(41, 2)).unwrap();
    let settings = [
        format!("task.kind={}", scenario.kind),
        format!("data.train={}", file("learn").display()),
        format!("data.eval={}", file("check").display()),
        "max_steps=60".to_owned(),
        "learning_rate=5e-3".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).chain(scenario.more.iter().copied()).collect();
    run(launch(&bench).args(train(&bench, "run", &settings))).expect(0);
    let last = bench.lines("run", "eval_loss").pop().unwrap();
    (bench, last)
}

/// What `evaluate` says of the final model.
pub fn evaluated(scenario: &Scenario, bench: &Bench, launch: Launch) -> Value {
    let data = format!("check.{}", scenario.extension);
    let args = ["evaluate", "--model", "run/final", "--task", scenario.kind, "--data", &data, "--json"];
    let ended = run(launch(bench).args(args).args(options(scenario))).expect(0);
    serde_json::from_str(ended.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {}", ended.text()))
}

/// The lines that `predict` writes for the records that were evaluated, with what it said.
pub fn predicted(scenario: &Scenario, bench: &Bench, launch: Launch) -> (Vec<Value>, String) {
    let input = format!("check.{}", scenario.extension);
    let args = ["predict", "--model", "run/final", "--input", &input, "--output", "out.jsonl", "--scores"];
    let ended = run(launch(bench).args(args).args(options(scenario))).expect(0);
    let text = fs::read_to_string(bench.path("out.jsonl")).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), ended.stderr)
}
