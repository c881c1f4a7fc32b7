//! The configuration of a run: reads a TOML file and `key=value` overrides into a checked [`Config`].
//!
//! `sections` declares each setting once, with the macro in `keys`. The steps: text -> entries with their origins
//! (`source`) -> typed settings with their defaults (`sections`) -> checks that concern several settings (`validate`).
//! Each step notes its problems and continues, so that one message has them all. `reference` generates the
//! documentation from the declarations.

mod arguments;
mod augment;
mod choice;
mod class_weights;
mod data_files;
mod distilled;
mod eval_sets;
mod eval_split;
mod keys;
mod mixed;
mod optimizers;
mod other_tool_keys;
mod other_tool_values;
mod problems;
mod profile;
mod reference;
mod report_to;
mod schedules;
mod sections;
mod source;
mod sources;
mod streaming;
mod table_keys;
mod task_settings;
#[cfg(test)]
mod tests;
mod trained;
mod validate;
mod value;

use std::path::Path;

pub use arguments::Arguments;
pub use choice::{
    Backend, Documents, EmbeddingLoss, Format, IntervalStrategy, LrSchedulerType, ModelInit, Offload, OnBadRecord,
    OnNonFinite, Optim, Pooling, Precision, Sampling, ShardWithin, TaskKind, Writers,
};
pub use class_weights::ClassWeights;
pub use data_files::DataFiles;
pub use eval_sets::EvalSets;
pub use eval_split::EvalSplit;
pub use mixed::{Bytes, EarlyStopping, MicroBatchTokens, Recompute, TimeLimit, ZeroStage};
pub use profile::ProfiledSteps;
pub use reference::{explain, full_name, list, names};
pub use report_to::{ReportTo, Reporter};
pub use sections::{
    AnswerConfig, AugmentConfig, CheckpointConfig, CommConfig, Config, DataConfig, DistillConfig, GenerationConfig,
    GroupConfig, LoraConfig, ModelConfig, ParallelConfig, SourceConfig, StageConfig, TargetModules, TaskConfig,
    TrainConfig, Unfreeze,
};
pub use task_settings::{MAX_TARGET_LENGTH, misplaced};

use crate::error::{Context, Result};
use keys::Section;
use problems::Problems;

/// The file in a fine-tuned model's folder that has the configuration of its training.
pub const MODEL_FILE: &str = "trainer_config.toml";

impl Config {
    /// Reads `file`, if given, and applies `key=value` overrides. The last override of a key counts.
    ///
    /// # Errors
    /// An input error with one line for each problem: `file:line: key: what was found, what is expected`.
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<Config> {
        let Some(file) = file else { return Self::parse("", problems::COMMAND_LINE, overrides) };
        let text =
            std::fs::read_to_string(file).input_context(format!("cannot read the configuration {}", file.display()))?;
        Self::parse(&text, &file.display().to_string(), overrides)
    }

    /// Reads the configuration of the training from a fine-tuned model's folder ([`MODEL_FILE`]), if it has one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_model(folder: &Path) -> Result<Option<Config>> {
        let path = folder.join(MODEL_FILE);
        let why = "training wrote it to say how data is read; without it, options say that";
        path.exists().then(|| Self::load(Some(&path), &[])).transpose().context(why)
    }

    /// Reads a configuration from the text of a file; `name` is the file's name in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Config> {
        let mut problems = Problems::new(name);
        let entries = source::entries(text, overrides, &mut problems)?;
        let mut config = <Config as Section>::read(&entries, &mut problems);
        validate::validate(&mut config, &mut problems);
        problems.finish()?;
        Ok(config)
    }
}

/// Checks for settings that are written as options among the words of a command line, such as `--lr 3e-5`. `known` are
/// options of the command, without dashes.
///
/// # Errors
/// An input error with one line for each setting; none for words that are no settings, here or in other tools.
pub fn check_options(words: &[String], known: &[&str]) -> Result<()> {
    let mut problems = Problems::new(problems::COMMAND_LINE);
    source::options(words, known, &mut problems);
    problems.finish()
}

/// Returns the value of an option such as `--device` for a value that other tools use, as the end of a message:
/// `found ...: use ...`, or that it is not supported. `None` if the value is not known.
pub fn other_tool_value(option: &str, value: &str) -> Option<String> {
    other_tool_values::problem(option, value, &format!("{value:?}"))
}
