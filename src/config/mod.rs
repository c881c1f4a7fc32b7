//! The configuration of a run: a TOML file and `key=value` overrides in, a checked [`Config`] out.
//!
//! The way: text -> entries with the place where each was written (`source`) -> typed, every one optional (`raw`) ->
//! defaults and checks (`validate`) -> [`Config`]. Each step notes its problems and goes on, so that one message
//! tells them all. `docs/configuration.md` is the reference for users; a test holds that it lists every key.

mod answers;
mod choice;
mod columns;
mod foreign;
mod generation;
mod language;
mod mixed;
mod pairs;
mod parallel;
mod problems;
mod raw;
mod sections;
mod source;
#[cfg(test)]
mod tests;
mod validate;
mod value;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use answers::AnswerConfig;
pub use choice::{
    Backend, Documents, Format, IntervalStrategy, LrSchedulerType, ModelInit, OnBadRecord, OnNonFinite, Precision,
    TaskKind,
};
pub use generation::GenerationConfig;
pub use mixed::{Bytes, EarlyStopping, MicroBatchTokens, Recompute, ZeroStage};
pub use sections::{CommConfig, DataConfig, ModelConfig, ParallelConfig, TaskConfig, TrainConfig};

use crate::error::{Context, Result};
use problems::Problems;
use raw::{KEYS, Raw, dotted};

/// A complete and checked configuration. Paths are as written: relative ones start at the working directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The run folder.
    pub output_dir: PathBuf,
    /// Replace a run that is in `output_dir` already.
    pub overwrite_output_dir: bool,
    /// Decides the data order, dropout and fresh weights.
    pub seed: u64,
    /// `[model]`
    pub model: ModelConfig,
    /// `[task]`
    pub task: TaskConfig,
    /// `[data]`
    pub data: DataConfig,
    /// `[train]`
    pub train: TrainConfig,
    /// `[generation]`
    pub generation: GenerationConfig,
    /// `[parallel]`
    pub parallel: ParallelConfig,
    /// `[comm]`
    pub comm: CommConfig,
}

/// The file in a fine-tuned model's folder that has the configuration of its training.
pub const MODEL_FILE: &str = "trainer_config.toml";

impl Config {
    /// Reads `file` (nothing: the overrides are all there is) and applies `key=value` overrides, the last of a key
    /// winning.
    ///
    /// # Errors
    /// An input error with one line for each problem: `file:line: key: what was found, what is expected`.
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<Config> {
        let Some(file) = file else { return Self::parse("", problems::COMMAND_LINE, overrides) };
        let text =
            std::fs::read_to_string(file).input_context(format!("cannot read the configuration {}", file.display()))?;
        Self::parse(&text, &file.display().to_string(), overrides)
    }

    /// The configuration that a fine-tuned model's folder has of its training ([`MODEL_FILE`]), if it has one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_model(folder: &Path) -> Result<Option<Config>> {
        let path = folder.join(MODEL_FILE);
        let why = "training wrote it to tell how data is read; where it is moved away, options tell that";
        path.exists().then(|| Self::load(Some(&path), &[])).transpose().context(why)
    }

    /// The same from the text of a file; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Config> {
        let mut problems = Problems::new(name);
        let entries = source::entries(text, overrides, &mut problems)?;
        let raw = Raw::read(&entries, &mut problems);
        let config = validate::validate(raw, &mut problems);
        problems.finish()?;
        Ok(config)
    }

    /// What is wrong with `train.metric_for_best_model` where there are so many labels.
    pub fn metric_of_two_labels(&self, labels: usize) -> Option<String> {
        let metric = self.train.metric_for_best_model.as_str();
        let wrong = self.task.kind == TaskKind::SequenceClassification
            && TaskKind::OF_TWO_LABELS.contains(&metric)
            && labels != 2;
        wrong.then(|| format!("{metric} is for two labels, and there are {labels}"))
    }

    /// All settings as TOML, defaults included, in the order of the documentation. It parses back to an equal
    /// `Config`; an optional setting without a value is a comment.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for setting in self.settings() {
            if setting.section != section {
                section = setting.section;
                out += &format!("\n[{section}]\n");
            }
            out += &match setting.value {
                Some(value) => format!("{} = {}\n", setting.key, show(&value)),
                None => format!("# {} =\n", setting.key),
            };
        }
        out
    }

    /// The settings of `other` that differ: (dotted key, mine, other's), values as in TOML or `unset`, in the order
    /// of the documentation.
    pub fn differences(&self, other: &Config) -> Vec<(String, String, String)> {
        let show = |value: Option<toml::Value>| value.map_or_else(|| "unset".to_owned(), |value| show(&value));
        self.settings()
            .zip(other.settings())
            .filter(|(mine, theirs)| mine.value != theirs.value)
            .map(|(mine, theirs)| (dotted(mine.section, mine.key), show(mine.value), show(theirs.value)))
            .collect()
    }

    fn settings(&self) -> impl Iterator<Item = Setting> + use<> {
        let table = toml::Table::try_from(self).expect("whatever was read from TOML can be written as TOML");
        KEYS.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key))).map(
            move |(section, key)| {
                let table = if section.is_empty() { Some(&table) } else { table[section].as_table() };
                Setting { section, key, value: table.and_then(|t| t.get(key)).cloned() }
            },
        )
    }
}

/// What is wrong with settings that are written as options among the words of a command line, `--lr 3e-5`; `known` are
/// options of the command, without dashes.
///
/// # Errors
/// An input error with one line for each setting; none for words that are no settings, here or elsewhere.
pub fn check_options(words: &[String], known: &[&str]) -> Result<()> {
    let mut problems = Problems::new(problems::COMMAND_LINE);
    source::options(words, known, &mut problems);
    problems.finish()
}

/// What other tools' word for an option such as `--device` is here, as the end of a message: `found ...: use ...`, or
/// that there is none.
pub fn foreign_word(option: &str, word: &str) -> Option<String> {
    foreign::word(option, word, &format!("{word:?}"))
}

/// The settings of `task` and `data` that mean something to other tasks alone: the key and why.
pub fn misplaced(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    [language::misplaced(task, data), pairs::misplaced(task, data), columns::misplaced(task, data)].concat()
}

/// A value as TOML, with `5e-5` rather than `0.00005`.
fn show(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(float) => format!("{float:?}"),
        other => other.to_string(),
    }
}

/// One setting and its value, if it has one.
struct Setting {
    section: &'static str,
    key: &'static str,
    value: Option<toml::Value>,
}
