//! The types of settings, and how their values are read from TOML.

use std::path::PathBuf;

use toml::de::DeValue;

/// A type that a setting can have.
pub trait Value: Sized {
    /// Returns the name of the type, as Markdown for the documentation.
    fn kind() -> String;

    /// Returns what a message says is expected.
    fn expected() -> String {
        with_article(&Self::kind())
    }

    /// Returns the value; `None` if it is not [`expected`](Value::expected), an error where there is more to say.
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>>;

    /// Returns the number that a range applies to.
    fn number(&self) -> Option<f64> {
        None
    }
}

impl<T: Value> Value for Option<T> {
    fn kind() -> String {
        T::kind()
    }
    fn expected() -> String {
        T::expected()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(T::from_toml(value)?.map(Some))
    }
    fn number(&self) -> Option<f64> {
        self.as_ref()?.number()
    }
}

impl Value for bool {
    fn kind() -> String {
        "boolean".into()
    }
    fn expected() -> String {
        "true or false".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        value.as_bool().map(Ok)
    }
}

macro_rules! integers {
    ($($type:ty),*) => { $(impl Value for $type {
        fn kind() -> String {
            "integer >= 0".into()
        }
        fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
            Some(Ok(integer(value)?.try_into().ok()?))
        }
        fn number(&self) -> Option<f64> {
            Some(*self as f64)
        }
    })* };
}
integers!(u64, usize);

impl Value for f64 {
    fn kind() -> String {
        "number".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let number = match value {
            DeValue::Float(float) => float.as_str().parse().ok()?,
            _ => integer(value)? as f64,
        };
        number.is_finite().then_some(Ok(number))
    }
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Value for String {
    fn kind() -> String {
        "string".into()
    }
    fn expected() -> String {
        "a non-empty string".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        value.as_str().filter(|s| !s.is_empty()).map(|s| Ok(s.to_owned()))
    }
}

impl Value for PathBuf {
    fn kind() -> String {
        "path".into()
    }
    fn expected() -> String {
        "a path in quotes".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        String::from_toml(value).map(|path| path.map(PathBuf::from))
    }
}

impl Value for Vec<String> {
    fn kind() -> String {
        "list of strings".into()
    }
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

impl Value for Vec<usize> {
    fn kind() -> String {
        "list of integers >= 0".into()
    }
    fn expected() -> String {
        "a list of integers such as [0, 2, 4]".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let DeValue::Array(items) = value else { return None };
        let number = |item: &DeValue<'_>| integer(item).and_then(|number| usize::try_from(number).ok());
        let numbers = items.iter().map(|item| {
            let item = item.get_ref();
            let wrong = || format!("found {} in the list, expected {}", describe(item), Self::expected());
            number(item).ok_or_else(wrong)
        });
        Some(numbers.collect())
    }
}

/// Returns `an integer`, `a number`.
pub fn with_article(noun: &str) -> String {
    format!("{} {noun}", if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

/// Returns an integer of TOML, which is signed and has 64 bits.
pub fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Returns a value as a message shows it.
pub fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the string {s:?}"),
        DeValue::Integer(i) => format!("the integer {i}"),
        DeValue::Float(f) => format!("the number {f}"),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    }
}

/// Returns a scalar, or a list of scalars, as TOML; `None` for a date or a table.
pub fn to_text(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| to_text(item.get_ref())).collect();
            format!("[{}]", items?.join(", "))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

/// Returns the candidate most similar to `word`, the first of equals; `None` if none is similar.
pub fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_lowercase();
    let similarity = |candidate: &str| strsim::normalized_damerau_levenshtein(&word, candidate);
    let mut best = (0.5, None);
    let length = word.chars().count();
    // The similarity is at most the ratio of the lengths; to compute it takes memory for each pair of characters.
    let is_alike = |candidate: &&str| length.max(candidate.chars().count()) < 2 * length.min(candidate.chars().count());
    for candidate in candidates.filter(is_alike) {
        let similarity = similarity(candidate);
        if similarity > best.0 {
            best = (similarity, Some(candidate));
        }
    }
    best.1
}
