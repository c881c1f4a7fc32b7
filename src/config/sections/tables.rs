//! Settings that are lists of tables.

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use crate::config::keys::{DefaultValue, Entries, FROM_0, Key, POSITIVE, Section, parse, section};
use crate::config::problems::Problems;
use crate::config::value::Value;

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

/// The name of a setting that is a list of tables, and the keys of each table.
type Columns = (&'static str, fn() -> Vec<&'static Key>);

/// The settings that are lists of tables.
const TABLES: &[Columns] = &[("train.groups", GroupConfig::keys)];

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
