//! The model card of a final model: `README.md` with metadata as the Hub reads them
//! (<https://huggingface.co/docs/hub/model-cards>).
//!
//! It has only what the run knows. The language and the license of the data are not guessed, and files are named without
//! their folders, because cards get published.

use crate::checkpoint::TrainerState;
use crate::checkpoint::adapter::AdapterConfig;
use crate::config::{Config, DataFiles, MODEL_FILE, ModelInit, TaskKind};
use crate::ffi;
use crate::hub::Repo;
use crate::text::files::extension;
use crate::train::model_folder;
use crate::train::quoting::quoted;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

mod sets;

use sets::{EvaluationSet, evaluation_sets, file_name};

/// The name of the file.
pub const FILE: &str = "README.md";

/// What a card says.
pub struct Facts<'a> {
    pub config: &'a Config,
    pub state: &'a TrainerState,
    /// `model_type` of the model's configuration.
    pub model_type: &'a str,
    /// Of a model with adapters.
    pub adapter: Option<&'a AdapterConfig>,
    /// Numbers of examples for training and of each evaluation set.
    pub examples: Vec<usize>,
    /// The step of the model, unless it is the last one.
    pub best: Option<u64>,
    /// The words of the command, the program first.
    pub command: Vec<String>,
    pub libtorch: Option<String>,
}

impl<'a> Facts<'a> {
    /// What a run knows about its end; `examples` are for training and of each evaluation set.
    pub fn new(config: &'a Config, state: &'a TrainerState, examples: Vec<usize>, best: Option<u64>) -> Self {
        let (command, libtorch) =
            (command_of_run(), Some(ffi::libtorch_version()).filter(|version| !version.is_empty()));
        Facts { config, state, model_type: "", adapter: None, examples, best, command, libtorch }
    }

    /// Adds the model's configuration and its adapters.
    pub fn of_model<'b>(self, config: &'b Value, adapter: Option<&'b AdapterConfig>) -> Facts<'b>
    where
        'a: 'b,
    {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        Facts { model_type, adapter, ..self }
    }
}

/// Returns the words of this process's command if it is `trainer train`; none in a program that uses the library.
fn command_of_run() -> Vec<String> {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if words.get(1).is_some_and(|word| word == "train") { words } else { Vec::new() }
}

/// Returns the card's text.
pub fn text(facts: &Facts) -> String {
    let Facts { config, state, .. } = facts;
    let name = model_folder::name_of(&config.output_dir.join("final"));
    let evaluation = evaluation(facts);
    let mut out = front_matter(facts, &name, evaluation);
    let start = base(facts).map_or_else(
        || "trained from scratch".to_owned(),
        |base| {
            format!(
                "{} from {}",
                if facts.adapter.is_some() { "an adapter trained" } else { "fine-tuned" },
                code(&base)
            )
        },
    );
    let (model_type, kind) = (code(facts.model_type), code(&config.task.kind.to_string()));
    out += &format!("\n# {name}\n\nThis is a {model_type} model for the task {kind}, {start}.\n");
    out += "\n## Data\n\n| | Files | Examples |\n|---|---|---|\n";
    let sets = evaluation_sets(config);
    let kinds = ["training".to_owned()].into_iter().chain(sets.iter().map(EvaluationSet::title));
    let files = std::iter::once(&config.data.train).chain(sets.iter().map(|set| set.files));
    let count = |count: &usize| count.to_string();
    let mut counts: Vec<String> = facts.examples.iter().map(count).collect();
    if config.data.streaming {
        counts[0] = "streamed".to_owned();
    }
    for ((what, files), count) in kinds.zip(files).zip(&counts) {
        out += &format!("| {what} | {} | {count} |\n", files_of(files));
    }
    out += "\n## Training\n\n| | |\n|---|---|\n";
    let step = facts.best.unwrap_or(state.global_step);
    let epochs = format!("{:.2}", state.epoch);
    let mut rows = vec![
        ("steps", format!("{} of {}, {epochs} epochs", state.global_step, state.max_steps)),
        ("step of this model", step.to_string()),
        ("examples per step", config.train.global_batch_size.to_string()),
        ("optimizer", config.train.optim.to_string()),
        ("learning rate", format!("{:e}, {}", config.train.learning_rate, config.train.lr_scheduler_type)),
        ("weight decay", config.train.weight_decay.to_string()),
        ("precision", config.parallel.precision.to_string()),
        ("seed", config.seed.to_string()),
        ("ranks", state.world.to_string()),
    ];
    if let Some(adapter) = facts.adapter {
        let dora = if adapter.use_dora { ", DoRA" } else { "" };
        rows.push(("adapter", format!("LoRA, r = {}, lora_alpha = {}{dora}", adapter.r, adapter.lora_alpha)));
    }
    out.extend(rows.into_iter().map(|(name, value)| format!("| {name} | {value} |\n")));
    out += &format!("\nAll settings are in {}.\n", code(MODEL_FILE));
    if let Some((line, at)) = evaluation {
        out += &format!("\n## Evaluation\n\nAfter step {at}:\n\n| Metric | Value |\n|---|---|\n");
        out.extend(metrics(line).map(|(name, value)| format!("| {name} | {value} |\n")));
    }
    out += "\n## Command and versions\n\n";
    if facts.command.len() > 1 {
        out += &format!("```sh\n{}\n```\n\n", command(&facts.command));
    }
    let libtorch = facts.libtorch.as_ref().map_or_else(String::new, |version| format!(", libtorch {version}"));
    out + &format!("trainer {}{libtorch}\n", env!("CARGO_PKG_VERSION"))
}

fn front_matter(facts: &Facts, name: &str, evaluation: Option<(&Map<String, Value>, u64)>) -> String {
    let mut out = "---\n".to_owned();
    if let Some(base) = base(facts) {
        out += &format!("base_model: {}\n", quoted(&base));
    }
    let task = pipeline(facts.config.task.kind);
    let library = if facts.adapter.is_some() { "peft" } else { "transformers" };
    out += &format!("library_name: {library}\npipeline_tag: {task}\ntags:\n- {}\n", quoted(facts.model_type));
    if let Some(adapter) = facts.adapter {
        out += if adapter.use_dora { "- lora\n- dora\n" } else { "- lora\n" };
    }
    let data = facts.config.data.train.paths().iter().filter_map(|path| Repo::data(path.to_str()?)?.ok());
    let data: BTreeSet<String> = data.map(|(repo, _)| repo.id).collect();
    if !data.is_empty() {
        out += "datasets:\n";
        out.extend(data.iter().map(|id| format!("- {}\n", quoted(id))));
    }
    // The metrics of another step than the model's are not the model's.
    let step = facts.best.unwrap_or(facts.state.global_step);
    if let Some((line, _)) = evaluation.filter(|(_, at)| *at == step) {
        out += &format!("model-index:\n- name: {}\n  results:\n", quoted(name));
        let names = &facts.config.data.eval_sets;
        for set in evaluation_sets(facts.config) {
            let file = set.files.first();
            out += &format!("  - task:\n      type: {task}\n    dataset:\n      type: {}\n", loader(file));
            out += &format!("      name: {}\n    metrics:\n", quoted(&set.name()));
            for (name, value) in metrics(line) {
                let (of, own) = names.split(name).map_or((None, name), |(of, own)| (Some(of), own));
                if of == set.key {
                    out += &format!("    - type: {}\n      value: {value}\n", quoted(own));
                }
            }
        }
    }
    out + "---\n"
}

/// The name of the model that training began with, on the Hub with its organization; `None` if it was newly initialized.
fn base(facts: &Facts) -> Option<String> {
    let config = facts.config;
    if config.model.init == ModelInit::Random {
        return None;
    }
    let of_adapter = facts.adapter.and_then(|adapter| adapter.base_model_name_or_path.as_deref());
    let path = of_adapter.unwrap_or(&config.model.path);
    Some(Repo::of_path(path).map_or_else(|| model_folder::name_of(path), |repo| repo.id))
}

/// Returns the last evaluation of the model, or of the run, and its step.
fn evaluation<'a>(facts: &Facts<'a>) -> Option<(&'a Map<String, Value>, u64)> {
    let lines = facts.state.log_history.iter().rev().filter_map(Value::as_object);
    let all = lines.filter(|line| line.contains_key("eval_loss"));
    let mut all = all.filter_map(|line| Some((line, line.get("step")?.as_u64()?)));
    all.find(|(_, step)| facts.best.is_none_or(|best| *step == best))
}

/// Returns the names and values of metrics that are defined.
fn metrics(line: &Map<String, Value>) -> impl Iterator<Item = (&str, f64)> {
    line.iter().filter_map(|(name, value)| Some((name.strip_prefix("eval_")?, value.as_f64()?)))
}

/// The Hub's name of a task.
fn pipeline(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::SequenceClassification | TaskKind::MultiLabel | TaskKind::Regression => "text-classification",
        TaskKind::TokenClassification => "token-classification",
        TaskKind::QuestionAnswering => "question-answering",
        TaskKind::MultipleChoice => "multiple-choice",
        TaskKind::MaskedLm => "fill-mask",
        TaskKind::CausalLm | TaskKind::Chat => "text-generation",
        TaskKind::Seq2seq => "text2text-generation",
        TaskKind::Embedding => "sentence-similarity",
    }
}

/// The loader of the `datasets` library for a file, which the Hub records for local files.
fn loader(path: &Path) -> &'static str {
    match extension(path).as_str() {
        "csv" | "tsv" => "csv",
        "json" | "jsonl" => "json",
        "parquet" => "parquet",
        "arrow" => "arrow",
        _ => "text",
    }
}

fn files_of(files: &DataFiles) -> String {
    files.paths().iter().map(|path| code(&file_name(path))).collect::<Vec<_>>().join(", ")
}

/// Returns the command with file names in place of absolute paths.
fn command(words: &[String]) -> String {
    let shown = |word: &String| {
        let (key, value) = word.split_once('=').map_or(("", word.as_str()), |(key, value)| (key, value));
        let value = if value.starts_with('/') { file_name(Path::new(value)) } else { value.to_owned() };
        let word = if word.contains('=') { format!("{key}={value}") } else { value };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let rest = words.iter().skip(1).map(shown);
    std::iter::once("trainer".to_owned()).chain(rest).collect::<Vec<_>>().join(" ").replace('\n', " ")
}

/// Text in a Markdown table, as code.
fn code(text: &str) -> String {
    format!("`{}`", text.replace(['`', '\n'], " ").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
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
        let words =
            ["output_dir=o", "model.path=m", "task.kind=regression", "data.train=/a/t.tsv", "data.eval_split=0.1"];
        let words: Vec<String> =
            words.iter().chain(&["data.eval_sets={ hard = 'h.csv' }"]).map(|w| w.to_string()).collect();
        let config = Config::parse("", "a test", &words).unwrap();
        let line = json!({"step": 5, "eval_loss": 0.5, "eval_hard_loss": 1.5});
        let state = TrainerState { global_step: 5, log_history: vec![line], ..TrainerState::default() };
        let text = text(&Facts::new(&config, &state, vec![9, 1, 2], None));
        let rows = "| training | `t.tsv` | 9 |\n| evaluation, 0.1 held out | `t.tsv` | 1 |\n| evaluation, hard | `h.csv` | 2 |";
        assert!(text.contains(rows), "{text}");
        let metrics = |name: &str, value: f64| {
            format!("      name: \"{name}\"\n    metrics:\n    - type: \"loss\"\n      value: {value}\n  - task")
        };
        let text = text.replace("\n---\n\n", "\n  - task");
        assert!(
            text.contains(&metrics("t.tsv (0.1 held out)", 0.5)) && text.contains(&metrics("h.csv", 1.5)),
            "{text}"
        );
    }

    #[test]
    fn an_adapter_names_its_base() {
        let config = config(&["lora.r=4"]);
        let adapter: AdapterConfig = serde_json::from_value(json!({
            "peft_type": "LORA", "base_model_name_or_path": "/models/base", "r": 4, "lora_alpha": 8.0,
            "target_modules": null,
        }))
        .unwrap();
        let text = card(&config, Some(&adapter), None);
        let (entries, rest) = parsed(&text);
        assert_eq!(value(&entries, 0, "base_model"), Some(json!("base")));
        assert_eq!(value(&entries, 0, "library_name"), Some(json!("peft")));
        assert!(text.contains("\n- lora\n") && rest.contains("LoRA, r = 4, lora_alpha = 8"), "{text}");
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
}
