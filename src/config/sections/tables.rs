//! Settings that are lists of tables.

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use crate::config::choice::{Documents, Format};
use crate::config::data_files::DataFiles;
use crate::config::keys::{AT_LEAST_1, DefaultValue, Entries, FROM_0, Key, POSITIVE, Section, parse, section};
use crate::config::problems::Problems;
use crate::config::value::{Value, integer};

section! {
    /// `[[train.groups]]`: weights with a learning rate or a weight decay of their own.
    GroupConfig in "train.groups" {
        /// The weights of the group. As in `model.train`: patterns, layer ranges, `"head"`.
        params: Vec<String>;
        /// Peak learning rate of the group. It follows the same schedule as `train.learning_rate`, and
        /// `train.layer_lr_decay` does not apply to it.
        learning_rate: Option<f64> => "the rate without the group", POSITIVE;
        /// Weight decay of the group. Not applied to biases and norms.
        weight_decay: Option<f64> => "`train.weight_decay`", FROM_0;
    }
}

section! {
    /// `[[train.unfreeze]]`: weights that are trained later than the others.
    StageConfig in "train.unfreeze" {
        /// The weights to unfreeze. As in `model.train`: patterns, layer ranges, `"head"`.
        params: Vec<String>;
        /// Number of steps before they are trained. This or `at_epoch` is required.
        at_step: Option<u64> => "`at_epoch`", AT_LEAST_1;
        /// Number of epochs before they are trained. Fractions are allowed.
        at_epoch: Option<f64> => "`at_step`", POSITIVE;
    }
}

/// When weights are unfrozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Unfreeze {
    /// One layer after each epoch, from the top.
    EveryEpoch(Epoch),
    /// One layer after this many steps, from the top.
    EverySteps(u64),
    Stages(Vec<StageConfig>),
}

/// The word `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Epoch {
    #[serde(rename = "epoch")]
    Epoch,
}

impl Value for Unfreeze {
    fn kind() -> String {
        "`epoch`, integer >= 1 or list of tables".into()
    }
    fn expected() -> String {
        "\"epoch\", an integer >= 1 or tables [[train.unfreeze]]".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let steps = integer(value).and_then(|steps| u64::try_from(steps).ok()).filter(|&steps| steps >= 1);
        match (steps, value.as_str()) {
            (Some(steps), _) => Some(Ok(Unfreeze::EverySteps(steps))),
            (None, Some("epoch")) => Some(Ok(Unfreeze::EveryEpoch(Epoch::Epoch))),
            (None, _) => Some(rows("train.unfreeze", value)?.map(Unfreeze::Stages)),
        }
    }
}

section! {
    /// `[[data.sources]]`: training data of one kind, which is mixed with others.
    SourceConfig in "data.sources" {
        /// Files of the source. Named like `data.train`.
        path: DataFiles;
        /// Weight of the source. The fraction of the examples of an epoch that come from it is its weight divided by
        /// the sum of all. Either all sources have one or none has.
        weight: Option<f64> => "each example once per epoch", POSITIVE;
        /// Targets of plain-text sources, for `seq2seq`. As `data.train_target`.
        train_target: Option<DataFiles> => "none";
        /// Column of the text.
        text_column: Option<String> => "`data.text_column`";
        /// Column of the second text of a pair.
        text_pair_column: Option<String> => "`data.text_pair_column`";
        /// Column of the label.
        label_column: Option<String> => "`data.label_column`";
        /// Column of the weight of each example in the loss. Examples of sources without one have weight 1.
        weight_column: Option<String> => "`data.weight_column`";
        /// Column of the source, for `seq2seq`.
        source_column: Option<String> => "`data.source_column`";
        /// Column of the target, for `seq2seq`.
        target_column: Option<String> => "`data.target_column`";
        /// Column of the list of words.
        words_column: Option<String> => "`data.words_column`";
        /// Column of the list of tags.
        tags_column: Option<String> => "`data.tags_column`";
        /// Column of the question, for multiple choice.
        question_column: Option<String> => "`data.question_column`";
        /// Column of the question's context, for multiple choice.
        context_column: Option<String> => "`data.context_column`";
        /// Column of the list of choices, for multiple choice.
        choices_column: Option<String> => "`data.choices_column`";
        /// Column of the prompt, for `chat`.
        prompt_column: Option<String> => "`data.prompt_column`";
        /// Column of the completion, for `chat`.
        completion_column: Option<String> => "`data.completion_column`";
        /// Column of the conversation, for `chat`.
        messages_column: Option<String> => "`data.messages_column`";
        /// Column names of a CSV or TSV file without a header.
        columns: Option<Vec<String>> => "`data.columns`";
        /// Whether the first row of a CSV or TSV file is a header.
        header: Option<bool> => "`data.header`";
        /// Format of the files.
        format: Option<Format> => "`data.format`";
        /// Documents of a plain-text file, for language models.
        documents: Option<Documents> => "`data.documents`";
    }
}

/// The name of a setting that is a list of tables, and the keys of each table.
type Columns = (&'static str, fn() -> Vec<&'static Key>);

/// The settings that are lists of tables.
const TABLES: &[Columns] =
    &[("data.sources", SourceConfig::keys), ("train.groups", GroupConfig::keys), ("train.unfreeze", StageConfig::keys)];

/// Returns the keys of each table of the setting `name` (dotted); none if it is not a list of tables.
pub fn columns(name: &str) -> Vec<&'static Key> {
    TABLES.iter().find(|(table, _)| *table == name).map_or_else(Vec::new, |(_, keys)| keys())
}

impl Value for Vec<SourceConfig> {
    fn kind() -> String {
        "list of tables".into()
    }
    fn expected() -> String {
        "tables [[data.sources]]".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        rows("data.sources", value)
    }
}

impl Value for Vec<GroupConfig> {
    fn kind() -> String {
        "list of tables".into()
    }
    fn expected() -> String {
        "tables [[train.groups]]".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        rows("train.groups", value)
    }
}

/// Reads a list of tables; `None` if the value is none.
fn rows<S: Section>(name: &str, value: &DeValue<'_>) -> Option<Result<Vec<S>, String>> {
    let DeValue::Array(items) = value else { return None };
    let tables = items.iter().map(|item| item.get_ref().as_table()).collect::<Option<Vec<_>>>()?;
    let mut problems = Problems::new(name);
    let rows = tables.into_iter().map(|table| S::read(&Entries::of_table(name, table), &mut problems)).collect();
    Some(problems.finish().map(|()| rows).map_err(|error| error.to_string()))
}
