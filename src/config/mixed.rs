//! Settings of mixed types (integer, string, boolean). They are written back as they were read.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::other_tool_values;
use super::value::{Value, integer};

/// An integer, a string or a boolean of TOML or JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Integer(i64),
    Text(String),
    Boolean(bool),
}

impl Scalar {
    /// Returns what is wrong with a string or a boolean that other tools use for the setting of this key.
    fn other_tool_problem(&self, key: &str) -> Option<String> {
        let word = match self {
            Scalar::Integer(_) => return None,
            Scalar::Text(word) => word.clone(),
            Scalar::Boolean(flag) => flag.to_string(),
        };
        other_tool_values::problem(key, &word, &self.to_string())
    }
}

impl Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Integer(n) => n.fmt(f),
            Scalar::Text(word) => write!(f, "{word:?}"),
            Scalar::Boolean(flag) => flag.fmt(f),
        }
    }
}

/// Implements the traits of a setting that has `from_scalar` and `to_scalar`: the name of its type, and what a message
/// expects.
macro_rules! mixed {
    ($name:ident of $key:literal, $kind:literal, $expected:literal) => {
        impl TryFrom<Scalar> for $name {
            type Error = String;
            fn try_from(scalar: Scalar) -> Result<Self, String> {
                Self::from_scalar(&scalar).ok_or_else(|| {
                    scalar.other_tool_problem($key).unwrap_or_else(|| format!("found {scalar}, expected {}", $expected))
                })
            }
        }

        impl From<$name> for Scalar {
            fn from(value: $name) -> Self {
                value.to_scalar()
            }
        }

        impl Value for $name {
            fn kind() -> String {
                $kind.into()
            }
            fn expected() -> String {
                $expected.into()
            }
            fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
                let word = || value.as_str().map(|word| Scalar::Text(word.to_owned()));
                let flag = || value.as_bool().map(Scalar::Boolean);
                Some(integer(value).map(Scalar::Integer).or_else(word).or_else(flag)?.try_into())
            }
        }

        /// Writes the value as in TOML.
        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_scalar().fmt(f)
            }
        }
    };
}

/// What ZeRO (arXiv 1910.02054) shards over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub enum ZeroStage {
    /// The lowest stage that fits into the memory of a rank.
    Auto,
    /// 0: nothing; 1: optimizer state; 2: gradients too; 3: weights too.
    Stage(u8),
}

mixed!(ZeroStage of "parallel.zero_stage", "one of `0`, `1`, `2`, `3`, `auto`", "0, 1, 2, 3 or \"auto\"");

impl ZeroStage {
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Integer(n @ 0..=3) => Some(ZeroStage::Stage(*n as u8)),
            Scalar::Text(word) if word == "auto" => Some(ZeroStage::Auto),
            _ => None,
        }
    }

    fn to_scalar(self) -> Scalar {
        match self {
            ZeroStage::Auto => Scalar::Text("auto".into()),
            ZeroStage::Stage(n) => Scalar::Integer(n.into()),
        }
    }
}

impl Default for ZeroStage {
    fn default() -> Self {
        ZeroStage::Stage(0)
    }
}

/// The blocks of the model whose activations are checkpointed: dropped after forward and recomputed in backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub enum Recompute {
    /// None: all activations are kept.
    #[default]
    None,
    All,
    /// All but every N-th, which keeps its activations; N is at least 1, and with 1 no block is checkpointed.
    KeepEvery(u32),
    /// The first N.
    First(u32),
    /// As many of the first as the memory of a rank requires.
    Auto,
}

mixed!(
    Recompute of "parallel.recompute",
    "`none`, `all`, `auto`, `first-N` or integer >= 1",
    "\"none\", \"all\", \"auto\", \"first-N\" or an integer >= 1"
);

impl Recompute {
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Integer(n) => u32::try_from(*n).ok().filter(|n| *n >= 1).map(Recompute::KeepEvery),
            Scalar::Text(word) => match word.as_str() {
                "none" => Some(Recompute::None),
                "all" => Some(Recompute::All),
                "auto" => Some(Recompute::Auto),
                _ => word.strip_prefix("first-")?.parse().ok().filter(|n| *n >= 1).map(Recompute::First),
            },
            Scalar::Boolean(_) => None,
        }
    }

    fn to_scalar(self) -> Scalar {
        match self {
            Recompute::None => Scalar::Text("none".into()),
            Recompute::All => Scalar::Text("all".into()),
            Recompute::Auto => Scalar::Text("auto".into()),
            Recompute::First(n) => Scalar::Text(format!("first-{n}")),
            Recompute::KeepEvery(n) => Scalar::Integer(n.into()),
        }
    }
}

/// The tokens per micro-batch on each rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub enum MicroBatchTokens {
    /// As many as fit into the memory of a GPU; on a CPU a number above which training is not faster.
    #[default]
    Auto,
    /// This number, at least 1.
    Tokens(usize),
}

mixed!(MicroBatchTokens of "train.micro_batch_tokens", "integer >= 1 or `auto`", "an integer >= 1 or \"auto\"");

impl MicroBatchTokens {
    /// Returns the number, if one is set.
    pub fn given(self) -> Option<usize> {
        match self {
            MicroBatchTokens::Auto => None,
            MicroBatchTokens::Tokens(n) => Some(n),
        }
    }

    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Integer(n) => usize::try_from(*n).ok().filter(|n| *n >= 1).map(MicroBatchTokens::Tokens),
            Scalar::Text(word) if word == "auto" => Some(MicroBatchTokens::Auto),
            _ => None,
        }
    }

    fn to_scalar(self) -> Scalar {
        match self {
            MicroBatchTokens::Auto => Scalar::Text("auto".into()),
            MicroBatchTokens::Tokens(n) => Scalar::Integer(n as i64),
        }
    }
}

/// When beam search ends, once there are as many finished texts as beams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub enum EarlyStopping {
    /// At once.
    Yes,
    /// When no running beam can become better at its current length.
    No,
    /// When none can at any length.
    Never,
}

mixed!(EarlyStopping of "generation.early_stopping", "boolean or `never`", "true, false or \"never\"");

impl EarlyStopping {
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Boolean(true) => Some(EarlyStopping::Yes),
            Scalar::Boolean(false) => Some(EarlyStopping::No),
            Scalar::Text(word) if word == "never" => Some(EarlyStopping::Never),
            _ => None,
        }
    }

    fn to_scalar(self) -> Scalar {
        match self {
            EarlyStopping::Yes => Scalar::Boolean(true),
            EarlyStopping::No => Scalar::Boolean(false),
            EarlyStopping::Never => Scalar::Text("never".into()),
        }
    }
}

/// An amount of memory in bytes, at least 1 and less than 2^63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub struct Bytes(pub u64);

mixed!(
    Bytes of "parallel.memory_per_rank",
    "size (string or integer >= 1)",
    "a size such as \"16GiB\": an integer >= 1 with KiB, MiB, GiB, TiB, kB, MB, GB, TB or no unit"
);

/// The largest first.
const UNITS: &[(&str, i64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
];

impl Bytes {
    /// Reads a unit in upper or lower case, with or without a space before it.
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        let bytes = match scalar {
            Scalar::Integer(n) => *n,
            Scalar::Text(word) => {
                let (digits, unit) = word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()));
                let unit = match unit.trim() {
                    "" | "B" => 1,
                    unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
                };
                digits.parse::<i64>().ok()?.checked_mul(unit)?
            }
            Scalar::Boolean(_) => return None,
        };
        u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(Bytes)
    }

    /// Writes the size in the largest unit that leaves an integer.
    fn to_scalar(self) -> Scalar {
        let unit = UNITS.iter().find(|(_, unit)| self.0.is_multiple_of(*unit as u64));
        match unit {
            Some((name, unit)) => Scalar::Text(format!("{}{name}", self.0 / *unit as u64)),
            None => Scalar::Integer(self.0 as i64),
        }
    }
}

/// A time limit in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub struct TimeLimit(pub u64);

mixed!(
    TimeLimit of "train.max_time",
    "time (string or integer >= 1)",
    "a time such as \"90m\", \"12h\" or \"1-06:00:00\" (days, hours, minutes, seconds), or an integer of seconds >= 1"
);

impl TimeLimit {
    /// Reads `[days-]hours:minutes:seconds`, as Slurm writes it, or an integer with one of the units s, m, h, d, or none.
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        let seconds = match scalar {
            Scalar::Integer(n) => u64::try_from(*n).ok()?,
            Scalar::Text(word) if word.contains(':') => {
                let (days, clock) = word.split_once('-').unwrap_or(("0", word));
                let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
                let [hours, minutes @ 0..60, seconds @ 0..60] = parts[..] else { return None };
                let hours = days.parse::<u64>().ok()?.checked_mul(24)?.checked_add(hours)?;
                hours.checked_mul(3600)?.checked_add(60 * minutes + seconds)?
            }
            Scalar::Text(word) => {
                let (digits, unit) = word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()));
                let unit = match unit.trim() {
                    "" | "s" => 1,
                    "m" => 60,
                    "h" => 3600,
                    "d" => 86_400,
                    _ => return None,
                };
                digits.parse::<u64>().ok()?.checked_mul(unit)?
            }
            Scalar::Boolean(_) => return None,
        };
        // i64 is what TOML has.
        (seconds > 0 && i64::try_from(seconds).is_ok()).then_some(TimeLimit(seconds))
    }

    /// Writes the time in the largest unit that leaves an integer.
    fn to_scalar(self) -> Scalar {
        let unit = [("d", 86_400), ("h", 3600), ("m", 60)].into_iter().find(|(_, unit)| self.0.is_multiple_of(*unit));
        match unit {
            Some((name, unit)) => Scalar::Text(format!("{}{name}", self.0 / unit)),
            None => Scalar::Integer(self.0.cast_signed()),
        }
    }
}
