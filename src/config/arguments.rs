//! Tables of named arguments, whose names depend on another setting: `lr_scheduler_kwargs`, `optim_args`.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::keys::Check;
use super::value::{Value, describe, integer, nearest, with_article};

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Word(String),
}

impl Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Flag(flag) => flag.fmt(f),
            Argument::Integer(n) => n.fmt(f),
            Argument::Number(x) => write!(f, "{x:?}"),
            Argument::Word(word) => write!(f, "{word:?}"),
        }
    }
}

/// What an argument takes.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    Number(Check),
    Integer(Check),
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// The arguments of a choice, each with what it takes.
pub type Known = &'static [(&'static str, Takes)];

impl Takes {
    fn accepts(self, argument: &Argument) -> bool {
        match (self, argument) {
            (Takes::Number((_, holds)), Argument::Number(x)) => holds(*x),
            (Takes::Number((_, holds)) | Takes::Integer((_, holds)), Argument::Integer(n)) => holds(*n as f64),
            (Takes::Flag, Argument::Flag(_)) => true,
            (Takes::Word(words), Argument::Word(word)) => words.contains(&word.as_str()),
            _ => false,
        }
    }

    fn expected(self) -> String {
        match self {
            Takes::Number((range, _)) | Takes::Integer((range, _)) => with_article(range),
            Takes::Flag => "true or false".into(),
            Takes::Word(words) => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// Named arguments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Arguments(BTreeMap<String, Argument>);

impl Arguments {
    /// Returns a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.0.get(name)? {
            Argument::Number(x) => Some(*x),
            Argument::Integer(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// Returns an integer that is not negative.
    pub fn count(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Argument::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Argument::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub fn word(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Argument::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Returns whether the argument was written.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns what is wrong with the arguments of `choice`, which knows these. `users` returns the choices that know
    /// an argument.
    pub(super) fn problems(
        &self,
        choice: &str,
        known: Known,
        users: impl Fn(&str) -> Vec<&'static str>,
    ) -> Vec<String> {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let taken = if names.is_empty() { "takes no arguments".into() } else { format!("takes {}", names.join(", ")) };
        let problem = |(name, argument): (&String, &Argument)| match known.iter().find(|(own, _)| own == name) {
            Some((_, takes)) if takes.accepts(argument) => None,
            Some((_, takes)) => Some(format!("{name}: found {argument}, expected {}", takes.expected())),
            None => {
                let hint = nearest(name, names.iter().copied()).map(|near| format!(" (did you mean {near}?)"));
                let users = users(name);
                let of = if users.is_empty() { String::new() } else { format!(", it is for {}", users.join(", ")) };
                let hint = hint.filter(|_| users.is_empty()).unwrap_or_default();
                Some(format!("{name}: {choice} does not know this argument{of}; it {taken}{hint}"))
            }
        };
        self.0.iter().filter_map(problem).collect()
    }

    /// Reads `a=1,b=true`, as Hugging Face writes `optim_args`, or JSON.
    fn of_text(text: &str) -> Option<Self> {
        if text.starts_with('{') {
            return serde_json::from_str(text).ok();
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let one = |part: &str| {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim().to_owned(), value.trim());
            let number = || value.parse().ok().filter(|x: &f64| x.is_finite()).map(Argument::Number);
            let argument = match value.to_lowercase().as_str() {
                "true" => Argument::Flag(true),
                "false" => Argument::Flag(false),
                _ => value.parse().map(Argument::Integer).ok().or_else(number).unwrap_or(Argument::Word(value.into())),
            };
            Some((name, argument))
        };
        parts.map(one).collect::<Option<_>>().map(Arguments)
    }
}

impl Value for Arguments {
    fn kind() -> String {
        "table of arguments".into()
    }

    fn expected() -> String {
        "a table of arguments such as { name = 1 }".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        if let Some(text) = value.as_str() {
            return Self::of_text(text).map(Ok);
        }
        let DeValue::Table(table) = value else { return None };
        let one = |value: &DeValue<'_>| match value {
            DeValue::Boolean(flag) => Some(Argument::Flag(*flag)),
            DeValue::String(word) => Some(Argument::Word(word.to_string())),
            DeValue::Float(x) => {
                x.as_str().replace('_', "").parse().ok().filter(|x: &f64| x.is_finite()).map(Argument::Number)
            }
            other => integer(other).map(Argument::Integer),
        };
        let mut arguments = BTreeMap::new();
        for (name, value) in table {
            let found = value.get_ref();
            let Some(argument) = one(found) else {
                let expected = "expected a number, a string or a boolean";
                return Some(Err(format!("{}: found {}, {expected}", name.get_ref(), describe(found))));
            };
            arguments.insert(name.get_ref().to_string(), argument);
        }
        Some(Ok(Arguments(arguments)))
    }
}
