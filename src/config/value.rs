//! From TOML values to the types of settings.

use std::path::PathBuf;

use toml::de::DeValue;

/// A type that a setting can have.
pub trait FromToml: Sized {
    /// What a message says that the setting wants.
    fn expected() -> String;

    /// The value; `None` if it is not [`expected`](FromToml::expected), an error where there is more to say.
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>>;

    /// The value, or `found ..., expected ...`.
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        Self::from_toml(value)
            .unwrap_or_else(|| Err(format!("found {}, expected {}", describe(value), Self::expected())))
    }
}

impl FromToml for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        value.as_bool().map(Ok)
    }
}

impl FromToml for u64 {
    fn expected() -> String {
        "a whole number from 0 up".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(Ok(integer(value)?.try_into().ok()?))
    }
}

impl FromToml for usize {
    fn expected() -> String {
        u64::expected()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(Ok(integer(value)?.try_into().ok()?))
    }
}

/// A whole number from `LEAST` up.
#[derive(Debug, Clone, Copy)]
pub struct AtLeast<const LEAST: i64, T>(pub T);

impl<const LEAST: i64, T: TryFrom<i64>> FromToml for AtLeast<LEAST, T> {
    fn expected() -> String {
        format!("a whole number from {LEAST} up")
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let n = integer(value)?;
        if n >= LEAST {
            return Some(Ok(AtLeast(n.try_into().ok()?)));
        }
        // Hugging Face's max_steps, and others elsewhere, are unset by -1.
        let hint = if n == -1 { "; to leave it unset, leave it out" } else { "" };
        Some(Err(format!("found {n}, expected {}{hint}", Self::expected())))
    }
}

impl FromToml for f64 {
    fn expected() -> String {
        "a number".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        match value {
            DeValue::Float(float) => float.as_str().parse().ok().map(Ok),
            _ => Some(Ok(integer(value)? as f64)),
        }
    }
}

impl FromToml for String {
    fn expected() -> String {
        "a string that is not empty".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        value.as_str().filter(|s| !s.is_empty()).map(|s| Ok(s.to_owned()))
    }
}

impl FromToml for PathBuf {
    fn expected() -> String {
        "a path in quotes".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        value.as_str().filter(|s| !s.is_empty()).map(|s| Ok(s.into()))
    }
}

impl FromToml for Vec<String> {
    fn expected() -> String {
        "a list of strings such as [\"a\", \"b\"]".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let DeValue::Array(items) = value else { return None };
        let bad = items.iter().find(|item| !item.get_ref().is_str());
        Some(match bad {
            Some(item) => Err(format!("found {} in the list, expected {}", describe(item.get_ref()), Self::expected())),
            None => Ok(items.iter().filter_map(|item| item.get_ref().as_str()).map(str::to_owned).collect()),
        })
    }
}

/// TOML's integers are signed and have 64 bits.
pub fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value in a message.
pub fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the string {s:?}"),
        DeValue::Integer(i) => format!("the whole number {i}"),
        DeValue::Float(f) => format!("the number {f}"),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    }
}
