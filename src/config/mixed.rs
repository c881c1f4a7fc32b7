//! Settings that are a number, a word or a truth value: they are written back as they were read.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::foreign;
use super::value::{FromToml, integer};

/// A whole number, a word or a truth value, as TOML and JSON have them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Written {
    Number(i64),
    Word(String),
    Flag(bool),
}

impl Written {
    /// What is wrong with a word, or a truth value, that other tools have for the setting of this key.
    fn foreign(&self, key: &str) -> Option<String> {
        let word = match self {
            Written::Number(_) => return None,
            Written::Word(word) => word.clone(),
            Written::Flag(flag) => flag.to_string(),
        };
        foreign::word(key, &word, &self.to_string())
    }
}

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Number(n) => n.fmt(f),
            Written::Word(word) => write!(f, "{word:?}"),
            Written::Flag(flag) => flag.fmt(f),
        }
    }
}

/// The traits of a setting that reads and writes itself by `from_written` and `to_written`.
macro_rules! mixed {
    ($name:ident of $key:literal, $expected:literal) => {
        impl TryFrom<Written> for $name {
            type Error = String;
            fn try_from(written: Written) -> Result<Self, String> {
                Self::from_written(&written).ok_or_else(|| {
                    written.foreign($key).unwrap_or_else(|| format!("found {written}, expected {}", $expected))
                })
            }
        }

        impl From<$name> for Written {
            fn from(value: $name) -> Self {
                value.to_written()
            }
        }

        impl FromToml for $name {
            fn expected() -> String {
                $expected.into()
            }
            fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
                let word = || value.as_str().map(|word| Written::Word(word.to_owned()));
                let flag = || value.as_bool().map(Written::Flag);
                Some(integer(value).map(Written::Number).or_else(word).or_else(flag)?.try_into())
            }
        }

        /// As in TOML.
        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_written().fmt(f)
            }
        }
    };
}

/// What is sharded over ranks (ZeRO, arXiv 1910.02054).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ZeroStage {
    /// The lowest stage that fits into the memory of a rank.
    Auto,
    /// 0: nothing; 1: optimizer state; 2: gradients too; 3: weights too.
    Stage(u8),
}

mixed!(ZeroStage of "parallel.zero_stage", "0, 1, 2, 3 or \"auto\"");

impl ZeroStage {
    fn from_written(written: &Written) -> Option<Self> {
        match written {
            Written::Number(n @ 0..=3) => Some(ZeroStage::Stage(*n as u8)),
            Written::Word(word) if word == "auto" => Some(ZeroStage::Auto),
            _ => None,
        }
    }

    fn to_written(self) -> Written {
        match self {
            ZeroStage::Auto => Written::Word("auto".into()),
            ZeroStage::Stage(n) => Written::Number(n.into()),
        }
    }
}

impl Default for ZeroStage {
    fn default() -> Self {
        ZeroStage::Stage(0)
    }
}

/// Which stages of the model drop their activations after forward and compute them again in backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Recompute {
    /// None: all activations are kept.
    #[default]
    None,
    /// All.
    All,
    /// All but every N-th, which keeps its activations; N is at least 1, at which none is computed again.
    KeepEvery(u32),
}

mixed!(Recompute of "parallel.recompute", "\"none\", \"all\" or a whole number from 1 up");

impl Recompute {
    fn from_written(written: &Written) -> Option<Self> {
        match written {
            Written::Number(n) => u32::try_from(*n).ok().filter(|n| *n >= 1).map(Recompute::KeepEvery),
            Written::Word(word) => match word.as_str() {
                "none" => Some(Recompute::None),
                "all" => Some(Recompute::All),
                _ => None,
            },
            Written::Flag(_) => None,
        }
    }

    fn to_written(self) -> Written {
        match self {
            Recompute::None => Written::Word("none".into()),
            Recompute::All => Written::Word("all".into()),
            Recompute::KeepEvery(n) => Written::Number(n.into()),
        }
    }
}

/// Tokens that a rank takes through the model at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum MicroBatchTokens {
    /// What the memory of a GPU has room for; on a CPU a number that more would not make faster.
    #[default]
    Auto,
    /// So many, at least 1.
    Tokens(usize),
}

mixed!(MicroBatchTokens of "train.micro_batch_tokens", "a whole number from 1 up or \"auto\"");

impl MicroBatchTokens {
    /// The number that is set, if one is.
    pub fn given(self) -> Option<usize> {
        match self {
            MicroBatchTokens::Auto => None,
            MicroBatchTokens::Tokens(n) => Some(n),
        }
    }

    fn from_written(written: &Written) -> Option<Self> {
        match written {
            Written::Number(n) => usize::try_from(*n).ok().filter(|n| *n >= 1).map(MicroBatchTokens::Tokens),
            Written::Word(word) if word == "auto" => Some(MicroBatchTokens::Auto),
            _ => None,
        }
    }

    fn to_written(self) -> Written {
        match self {
            MicroBatchTokens::Auto => Written::Word("auto".into()),
            MicroBatchTokens::Tokens(n) => Written::Number(n as i64),
        }
    }
}

/// When beam search ends, once there are as many finished texts as beams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum EarlyStopping {
    /// At once.
    Yes,
    /// When no running text can become better at its present length.
    No,
    /// When none can at any length.
    Never,
}

mixed!(EarlyStopping of "generation.early_stopping", "true, false or \"never\"");

impl EarlyStopping {
    fn from_written(written: &Written) -> Option<Self> {
        match written {
            Written::Flag(true) => Some(EarlyStopping::Yes),
            Written::Flag(false) => Some(EarlyStopping::No),
            Written::Word(word) if word == "never" => Some(EarlyStopping::Never),
            _ => None,
        }
    }

    fn to_written(self) -> Written {
        match self {
            EarlyStopping::Yes => Written::Flag(true),
            EarlyStopping::No => Written::Flag(false),
            EarlyStopping::Never => Written::Word("never".into()),
        }
    }
}

/// An amount of memory in bytes, at least 1 and less than 2^63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Bytes(pub u64);

mixed!(
    Bytes of "parallel.memory_per_rank",
    "a size such as \"16GiB\": a whole number from 1 up with KiB, MiB, GiB, TiB, kB, MB, GB, TB or no unit"
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
    /// Units in capitals or small letters, with or without a space before them.
    fn from_written(written: &Written) -> Option<Self> {
        let bytes = match written {
            Written::Number(n) => *n,
            Written::Word(word) => {
                let (digits, unit) = word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()));
                let unit = match unit.trim() {
                    "" | "B" => 1,
                    unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
                };
                digits.parse::<i64>().ok()?.checked_mul(unit)?
            }
            Written::Flag(_) => return None,
        };
        u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(Bytes)
    }

    /// In the largest unit that leaves a whole number.
    fn to_written(self) -> Written {
        let unit = UNITS.iter().find(|(_, unit)| self.0.is_multiple_of(*unit as u64));
        match unit {
            Some((name, unit)) => Written::Word(format!("{}{name}", self.0 / *unit as u64)),
            None => Written::Number(self.0 as i64),
        }
    }
}
