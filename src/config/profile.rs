//! `train.profile`: which steps are recorded.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::value::{Value, integer};

/// What is expected of the setting.
const EXPECTED: &str = "the first and the last step, such as \"10..12\", or a number of last steps";

/// Steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ProfiledSteps {
    /// From the first to the last, counted from 1.
    Range { first: u64, last: u64 },
    /// So many at the end of the run, at least one.
    Last(u64),
}

/// [`ProfiledSteps`] in TOML.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Count(u64),
    Range(String),
}

impl ProfiledSteps {
    /// Returns the first and the last of the steps, for a run of `total` steps.
    pub fn of(self, total: u64) -> (u64, u64) {
        match self {
            ProfiledSteps::Range { first, last } => (first, last),
            ProfiledSteps::Last(count) => ((total + 1).saturating_sub(count).max(1), total),
        }
    }
}

impl TryFrom<Written> for ProfiledSteps {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Count(count) if count > 0 => Ok(ProfiledSteps::Last(count)),
            Written::Count(_) => Err(format!("found 0, expected {EXPECTED}")),
            Written::Range(text) => {
                let ends =
                    text.split_once("..").and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
                match ends {
                    Some((first, last)) if 0 < first && first <= last => Ok(ProfiledSteps::Range { first, last }),
                    _ => Err(format!("found {text:?}, expected {EXPECTED}")),
                }
            }
        }
    }
}

impl From<ProfiledSteps> for Written {
    fn from(steps: ProfiledSteps) -> Self {
        match steps {
            ProfiledSteps::Last(count) => Written::Count(count),
            ProfiledSteps::Range { .. } => Written::Range(steps.to_string()),
        }
    }
}

impl Display for ProfiledSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProfiledSteps::Range { first, last } => write!(f, "{first}..{last}"),
            ProfiledSteps::Last(count) => count.fmt(f),
        }
    }
}

impl Value for ProfiledSteps {
    fn kind() -> String {
        "`\"FIRST..LAST\"` or integer >= 1".into()
    }

    fn expected() -> String {
        EXPECTED.into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let written = match value {
            DeValue::String(text) => Written::Range(text.to_string()),
            other => Written::Count(integer(other)?.try_into().ok()?),
        };
        Some(written.try_into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Option<Result<ProfiledSteps, String>> {
        ProfiledSteps::from_toml(DeValue::parse(toml).unwrap().get_ref())
    }

    #[test]
    fn ranges_and_counts_are_read_and_written() {
        for (toml, steps, of_20) in [
            ("\"10..12\"", ProfiledSteps::Range { first: 10, last: 12 }, (10, 12)),
            ("3", ProfiledSteps::Last(3), (18, 20)),
            ("30", ProfiledSteps::Last(30), (1, 20)),
        ] {
            assert_eq!(read(toml), Some(Ok(steps)));
            assert_eq!((serde_json::to_string(&steps).unwrap(), steps.of(20)), (toml.to_owned(), of_20));
            assert_eq!(serde_json::from_str::<ProfiledSteps>(toml).unwrap(), steps);
        }
        for toml in ["0", "\"3\"", "\"0..2\"", "\"5..4\"", "\"a..b\""] {
            assert!(read(toml).unwrap().unwrap_err().ends_with(EXPECTED), "{toml}");
        }
        assert!(read("true").is_none() && read("-1").is_none());
    }
}
