//! Settings that are lists of tables.

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

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

/// The name of a setting that is a list of tables, and the keys of each table.
type Columns = (&'static str, fn() -> Vec<&'static Key>);

/// The settings that are lists of tables.
const TABLES: &[Columns] = &[("train.groups", GroupConfig::keys), ("train.unfreeze", StageConfig::keys)];

/// Returns the keys of each table of the setting `name` (dotted); none if it is not a list of tables.
pub fn columns(name: &str) -> Vec<&'static Key> {
    TABLES.iter().find(|(table, _)| *table == name).map_or_else(Vec::new, |(_, keys)| keys())
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
