//! `task.class_weights`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::value::{Value, describe};

/// The weights of the classes in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ClassWeights {
    /// Inversely proportional to the classes' frequencies in the training data.
    Balanced,
    /// By label; 1 for the others.
    Table(BTreeMap<String, f64>),
}

/// [`ClassWeights`] in TOML.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Table(BTreeMap<String, f64>),
}

const BALANCED: &str = "balanced";

impl From<ClassWeights> for Written {
    fn from(value: ClassWeights) -> Self {
        match value {
            ClassWeights::Balanced => Written::Word(BALANCED.into()),
            ClassWeights::Table(table) => Written::Table(table),
        }
    }
}

impl TryFrom<Written> for ClassWeights {
    type Error = String;
    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Word(word) if word == BALANCED => Ok(ClassWeights::Balanced),
            Written::Word(word) => Err(format!("found {word:?}, expected {}", Self::expected())),
            Written::Table(table) if table.is_empty() => Err("found an empty table: remove it, or name a label".into()),
            Written::Table(table) => match table.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
                Some((label, weight)) => Err(format!("{label:?}: found {weight:?}, expected a number >= 0")),
                None => Ok(ClassWeights::Table(table)),
            },
        }
    }
}

impl Value for ClassWeights {
    fn kind() -> String {
        "`balanced` or table of numbers".into()
    }

    fn expected() -> String {
        "\"balanced\" or a table of labels with their weights, such as { spam = 3.0, ham = 1.0 }".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        if let Some(word) = value.as_str() {
            let table = || serde_json::from_str(word).ok().map(Written::Table);
            let written = if word.starts_with('{') { table()? } else { Written::Word(word.to_owned()) };
            return Some(written.try_into());
        }
        let DeValue::Table(entries) = value else { return None };
        let mut table = BTreeMap::new();
        for (label, value) in entries {
            let found = value.get_ref();
            let Some(Ok(number)) = f64::from_toml(found) else {
                return Some(Err(format!("{:?}: found {}, expected a number", label.get_ref(), describe(found))));
            };
            table.insert(label.get_ref().to_string(), number);
        }
        Some(Written::Table(table).try_into())
    }
}
