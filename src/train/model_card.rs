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

/// The library that loads models of embeddings, and the Hub's tag of them.
const SENTENCES: &str = "sentence-transformers";

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
    let library = match (facts.adapter, facts.config.task.kind) {
        (Some(_), _) => "peft",
        (None, TaskKind::Embedding) => SENTENCES,
        (None, _) => "transformers",
    };
    out += &format!("library_name: {library}\npipeline_tag: {task}\ntags:\n- {}\n", quoted(facts.model_type));
    if let Some(adapter) = facts.adapter {
        out += if adapter.use_dora { "- lora\n- dora\n" } else { "- lora\n" };
    }
    if library == SENTENCES {
        // As its own cards.
        out += &format!("- {SENTENCES}\n- sentence-similarity\n- feature-extraction\n");
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
mod tests;
