use super::*;
use serde_json::json;

fn config(more: &[&str]) -> Config {
    let words = [
        "output_dir=/home/user/runs/sst2",
        "model.path=/home/user/models/MiniLM",
        "task.kind=sequence-classification",
        "data.train=/data/secret/train.tsv",
        "data.eval=/data/secret/dev.tsv",
        "learning_rate=3e-5",
    ];
    let words = words.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Config::parse("", "a test", &words).unwrap()
}

fn card(config: &Config, adapter: Option<&AdapterConfig>, best: Option<u64>) -> String {
    let state = TrainerState {
        global_step: 20,
        max_steps: 20,
        epoch: 2.0,
        world: 2,
        log_history: vec![
            json!({"step": 10, "epoch": 1.0, "eval_loss": 0.5, "eval_accuracy": 0.75}),
            json!({"step": 20, "epoch": 2.0, "eval_loss": 0.25, "eval_accuracy": 0.875, "eval_roc_auc": null}),
            json!({"step": 20, "loss": 0.1}),
        ],
        ..TrainerState::default()
    };
    let command =
        ["trainer", "train", "/home/user/sst2.toml", "data.train=/data/secret/train.tsv", "task.labels=[\"a b\"]"];
    text(&Facts {
        config,
        state: &state,
        model_type: "bert",
        adapter,
        examples: vec![640, 100, 50],
        best,
        command: command.map(String::from).to_vec(),
        libtorch: Some("2.11.0".into()),
    })
}

/// Returns the lines of the metadata as (depth, key, value), and the text after them.
fn parsed(card: &str) -> (Vec<(usize, String, Value)>, &str) {
    let (front, rest) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    let entry = |line: &str| {
        let bare = line.trim_start_matches([' ', '-']);
        let (key, value) = bare.split_once(':').unwrap_or(("", bare));
        let value = value.trim();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        (line.len() - bare.len(), key.to_owned(), value)
    };
    (front.lines().map(entry).collect(), rest)
}

fn value(entries: &[(usize, String, Value)], depth: usize, key: &str) -> Option<Value> {
    entries.iter().find(|entry| entry.0 == depth && entry.1 == key).map(|entry| entry.2.clone())
}

#[test]
fn a_card_has_the_facts_of_the_run() {
    let config = config(&[]);
    let text = card(&config, None, None);
    let (entries, rest) = parsed(&text);
    for (depth, key, wanted) in [
        (0, "base_model", json!("MiniLM")),
        (0, "library_name", json!("transformers")),
        (0, "pipeline_tag", json!("text-classification")),
        (2, "name", json!("sst2")),
        (6, "type", json!("text-classification")),
        (6, "name", json!("dev.tsv")),
    ] {
        assert_eq!(value(&entries, depth, key), Some(wanted), "{key} in {text}");
    }
    let metrics: Vec<&Value> = entries.iter().filter(|entry| entry.0 == 6).map(|entry| &entry.2).collect();
    assert!(metrics.ends_with(&[&json!("loss"), &json!(0.25), &json!("accuracy"), &json!(0.875)]), "{metrics:?}");
    for part in [
        "This is a `bert` model for the task `sequence-classification`, fine-tuned from `MiniLM`.",
        "| training | `train.tsv` | 640 |\n| evaluation | `dev.tsv` | 100 |",
        "| steps | 20 of 20, 2.00 epochs |",
        "| learning rate | 3e-5, linear |",
        "After step 20:\n\n| Metric | Value |\n|---|---|\n| loss | 0.25 |\n| accuracy | 0.875 |\n",
        "trainer train sst2.toml data.train=train.tsv 'task.labels=[\"a b\"]'",
        "libtorch 2.11.0",
    ] {
        assert!(rest.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("/home") && !text.contains("secret") && !text.contains("language:"), "{text}");
}

#[test]
fn metrics_are_those_of_the_best_step() {
    let config = config(&[]);
    let text = card(&config, None, Some(10));
    assert!(text.contains("value: 0.75\n") && text.contains("| step of this model | 10 |"), "{text}");
    assert!(text.contains("After step 10:") && !text.contains("0.875"), "{text}");
}

#[test]
fn every_evaluation_set_has_its_metrics() {
    let words = ["output_dir=o", "model.path=m", "task.kind=regression", "data.train=/a/t.tsv", "data.eval_split=0.1"];
    let words: Vec<String> =
        words.iter().chain(&["data.eval_sets={ hard = 'h.csv' }"]).map(|w| w.to_string()).collect();
    let config = Config::parse("", "a test", &words).unwrap();
    let line = json!({"step": 5, "eval_loss": 0.5, "eval_hard_loss": 1.5});
    let state = TrainerState { global_step: 5, log_history: vec![line], ..TrainerState::default() };
    let text = text(&Facts::new(&config, &state, vec![9, 1, 2], None));
    let rows =
        "| training | `t.tsv` | 9 |\n| evaluation, 0.1 held out | `t.tsv` | 1 |\n| evaluation, hard | `h.csv` | 2 |";
    assert!(text.contains(rows), "{text}");
    let metrics = |name: &str, value: f64| {
        format!("      name: \"{name}\"\n    metrics:\n    - type: \"loss\"\n      value: {value}\n  - task")
    };
    let text = text.replace("\n---\n\n", "\n  - task");
    assert!(text.contains(&metrics("t.tsv (0.1 held out)", 0.5)) && text.contains(&metrics("h.csv", 1.5)), "{text}");
}

fn adapter() -> AdapterConfig {
    let config = json!({
        "peft_type": "LORA", "base_model_name_or_path": "/models/base", "r": 4, "lora_alpha": 8.0,
        "target_modules": null,
    });
    serde_json::from_value(config).unwrap()
}

#[test]
fn an_adapter_names_its_base() {
    let config = config(&["lora.r=4"]);
    let text = card(&config, Some(&adapter()), None);
    let (entries, rest) = parsed(&text);
    assert_eq!(value(&entries, 0, "base_model"), Some(json!("base")));
    assert_eq!(value(&entries, 0, "library_name"), Some(json!("peft")));
    assert!(text.contains("\n- lora\n") && rest.contains("LoRA, r = 4, lora_alpha = 8"), "{text}");
}

#[test]
fn embeddings_are_of_sentence_transformers() {
    let data = ["data.train=/a/t.jsonl", "data.eval=/a/e.jsonl"];
    let words = [&["output_dir=o", "model.path=m", "task.kind=embedding"][..], &data].concat();
    let config = Config::parse("", "a test", &words.into_iter().map(String::from).collect::<Vec<_>>()).unwrap();
    let text = card(&config, None, None);
    let (entries, _) = parsed(&text);
    assert_eq!(value(&entries, 0, "library_name"), Some(json!("sentence-transformers")));
    assert_eq!(value(&entries, 0, "pipeline_tag"), Some(json!("sentence-similarity")));
    let tags = "\ntags:\n- \"bert\"\n- sentence-transformers\n- sentence-similarity\n- feature-extraction\n";
    assert!(text.contains(tags), "{text}");
    // sentence-transformers does not load an adapter by itself.
    let text = card(&config, Some(&adapter()), None);
    assert!(text.contains("library_name: peft\n") && !text.contains("sentence-transformers"), "{text}");
}

#[test]
fn what_comes_from_the_hub_has_its_name_there() {
    let files = "data.train=[\"hf://datasets/stanfordnlp/sst2/a.parquet\", \"b.parquet\"]";
    let text = card(&config(&["model.path=no-such-org/tiny@v1", files]), None, None);
    let (entries, rest) = parsed(&text);
    assert_eq!(value(&entries, 0, "base_model"), Some(json!("no-such-org/tiny")));
    assert!(text.contains("\ndatasets:\n- \"stanfordnlp/sst2\"\n"), "{text}");
    assert!(rest.contains("| training | `a.parquet`, `b.parquet` |"), "{text}");
}

#[test]
fn a_new_model_has_no_base() {
    let text = card(&config(&["model.init=random"]), None, None);
    assert!(!text.contains("base_model") && text.contains("trained from scratch"), "{text}");
}
