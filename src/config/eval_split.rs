//! `data.eval_split`: which part of the training data is held out.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::value::{Value, describe};

/// What is expected of the setting.
const EXPECTED: &str = "a number above 0 and at most 0.5, or a fold such as \"2/5\"";

/// A fraction of the training data, or one of its folds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum EvalSplit {
    /// At least a millionth, at most 0.5.
    Fraction(f64),
    /// The `fold`-th, from 1, of `folds`, at least 2.
    Fold { fold: usize, folds: usize },
}

/// [`EvalSplit`] in TOML.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Fraction(f64),
    Fold(String),
}

impl TryFrom<Written> for EvalSplit {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let found = |what: &dyn Display| format!("found {what}, expected {EXPECTED}");
        match written {
            Written::Fraction(fraction) if (1e-6..=0.5).contains(&fraction) => Ok(EvalSplit::Fraction(fraction)),
            Written::Fraction(fraction) => Err(found(&fraction)),
            Written::Fold(text) => {
                let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
                match numbers {
                    Some((fold, folds)) if folds >= 2 && (1..=folds).contains(&fold) => {
                        Ok(EvalSplit::Fold { fold, folds })
                    }
                    _ => Err(found(&format!("{text:?}"))),
                }
            }
        }
    }
}

impl From<EvalSplit> for Written {
    fn from(split: EvalSplit) -> Self {
        match split {
            EvalSplit::Fraction(fraction) => Written::Fraction(fraction),
            EvalSplit::Fold { fold, folds } => Written::Fold(format!("{fold}/{folds}")),
        }
    }
}

/// What is held out, for messages: `0.1 held out`, `fold 2 of 5`.
impl Display for EvalSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalSplit::Fraction(fraction) => write!(f, "{fraction} held out"),
            EvalSplit::Fold { fold, folds } => write!(f, "fold {fold} of {folds}"),
        }
    }
}

impl Value for EvalSplit {
    fn kind() -> String {
        "number in (0, 0.5] or `\"K/N\"`".into()
    }

    fn expected() -> String {
        EXPECTED.into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let written = match value {
            DeValue::String(text) => Written::Fold(text.to_string()),
            DeValue::Integer(_) => return Some(Err(format!("found {}, expected {EXPECTED}", describe(value)))),
            other => Written::Fraction(f64::from_toml(other)?.ok()?),
        };
        Some(written.try_into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Option<Result<EvalSplit, String>> {
        EvalSplit::from_toml(DeValue::parse(toml).unwrap().get_ref())
    }

    #[test]
    fn fractions_and_folds_are_read_and_written() {
        for (toml, split, json, shown) in [
            ("0.1", EvalSplit::Fraction(0.1), "0.1", "0.1 held out"),
            ("0.5", EvalSplit::Fraction(0.5), "0.5", "0.5 held out"),
            ("\"2/5\"", EvalSplit::Fold { fold: 2, folds: 5 }, "\"2/5\"", "fold 2 of 5"),
        ] {
            assert_eq!(read(toml), Some(Ok(split)));
            assert_eq!((serde_json::to_string(&split).unwrap(), split.to_string()), (json.into(), shown.into()));
            assert_eq!(serde_json::from_str::<EvalSplit>(json).unwrap(), split);
        }
    }

    #[test]
    fn other_values_are_refused() {
        for toml in ["0.0", "0.6", "-0.1", "1", "\"0/5\"", "\"6/5\"", "\"1/1\"", "\"a\"", "\"1/\""] {
            let message = read(toml).unwrap().unwrap_err();
            assert!(message.ends_with(EXPECTED), "{toml}: {message}");
        }
        assert!(read("true").is_none());
    }
}
