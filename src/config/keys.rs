//! Declarations of settings: what a declaration consists of, the macro that turns the declarations of a section into a
//! struct and a table, and how settings are read.

use std::borrow::Cow;
use std::collections::HashMap;

use toml::de::{DeTable, DeValue};

use super::problems::Problems;
use super::value::{Value, describe, integer, with_article};

/// The range of a number: the type with the range in words, and the test.
pub type Check = (&'static str, fn(f64) -> bool);
pub const POSITIVE: Check = ("number > 0", |x| x > 0.0);
pub const FROM_0: Check = ("number >= 0", |x| x >= 0.0);
pub const FROM_0_TO_1: Check = ("number in [0, 1]", |x| (0.0..=1.0).contains(&x));
pub const ABOVE_0_TO_1: Check = ("number in (0, 1]", |x| x > 0.0 && x <= 1.0);
pub const FROM_0_BELOW_1: Check = ("number in [0, 1)", |x| (0.0..1.0).contains(&x));
pub const ABOVE_0_BELOW_1: Check = ("number in (0, 1)", |x| x > 0.0 && x < 1.0);
/// A fraction of all steps, or a number of steps.
pub const STEPS: Check = ("number in [0, 1) or integer >= 1", |x| x >= 0.0 && (x < 1.0 || x.fract() == 0.0));
pub const AT_LEAST_1: Check = ("integer >= 1", |n| n >= 1.0);
pub const AT_LEAST_2: Check = ("integer >= 2", |n| n >= 2.0);
pub const AT_LEAST_3: Check = ("integer >= 3", |n| n >= 3.0);
/// Fits every clock.
pub const SECONDS: Check = ("number in (0, 1e9]", |x| x > 0.0 && x <= 1e9);
/// A power of two, so that scaling rounds nothing, up to the highest scale.
pub const LOSS_SCALE: Check = ("power of two from 1 to 16777216", |scale| {
    const FRACTION_BITS: u64 = (1 << 52) - 1;
    (1.0..=16_777_216.0).contains(&scale) && scale.to_bits() & FRACTION_BITS == 0
});

/// Required settings that another one replaces.
const INSTEAD: [(&str, &str); 1] = [("data.train", "data.sources")];

/// The value of a setting that is not written.
#[derive(Debug)]
pub enum DefaultValue {
    /// None: it is an error.
    Required,
    /// This value.
    Value(fn() -> toml::Value),
    /// The key stays unset; the words say what happens then, in Markdown.
    Unset(&'static str),
}

/// The declaration of a setting.
#[derive(Debug)]
pub struct Key {
    /// The section; empty at the top level.
    pub section: &'static str,
    pub name: &'static str,
    /// The description in Markdown. Its first sentence is a summary.
    pub help: &'static str,
    pub default: DefaultValue,
    /// Returns the name of the type.
    pub kind: fn() -> String,
    pub check: Option<Check>,
    /// Returns what is wrong with the type or the range of a value.
    pub problem: fn(&DeValue<'_>) -> Option<String>,
}

impl Key {
    pub fn dotted(&self) -> String {
        dotted(self.section, self.name)
    }
}

/// Returns `section.key`, or the key alone at the top level.
pub fn dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A struct of settings. Its `default()` has stand-ins for required settings.
pub trait Section: Default {
    /// Returns the declarations, in the order of the documentation.
    fn keys() -> Vec<&'static Key>;

    /// Reads all settings. Notes those that have a wrong type or range, or are required and missing.
    fn read(entries: &Entries<'_>, problems: &mut Problems) -> Self;
}

impl<S: Section> Section for Option<S> {
    fn keys() -> Vec<&'static Key> {
        S::keys()
    }
    fn read(entries: &Entries<'_>, problems: &mut Problems) -> Self {
        Some(S::read(entries, problems))
    }
}

/// Declares the settings of a section. Each has a description, which is also the docstring of its field, a name and a
/// type; then `= value` (the default) or `=> "words"` (what happens without it) or neither (it is required); then,
/// after a comma, the range. `with` adds fields that are sections themselves.
macro_rules! section {
    (@default $type:ty) => { DefaultValue::Required };
    (@default $type:ty, $value:expr) => {
        DefaultValue::Value(|| {
            let value: $type = $value;
            toml::Value::try_from(value).expect("a setting can be written as TOML")
        })
    };
    (@default $type:ty => $unset:literal) => { DefaultValue::Unset($unset) };
    (@initial) => { Default::default() };
    (@initial $value:expr) => { $value };
    (@check) => { None };
    (@check $check:ident) => { Some($check) };
    (
        $(#[doc = $about:literal])+
        $name:ident in $section:literal {
            $(
                $(#[doc = $help:literal])+
                $key:ident: $type:ty $(= $value:expr)? $(=> $unset:literal)? $(, $check:ident)?;
            )*
        }
        $(with { $($(#[$meta:meta])* $field:ident: $nested:ty;)* })?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[doc = $help])+ pub $key: $type,)*
            $($($(#[$meta])* pub $field: $nested,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                $name {
                    $($key: section!(@initial $($value)?),)*
                    $($($field: Default::default(),)*)?
                }
            }
        }

        impl $name {
            const KEYS: &[Key] = &[$(Key {
                section: $section,
                name: stringify!($key),
                help: concat!($($help),+),
                default: section!(@default $type $(, $value)? $(=> $unset)?),
                kind: <$type as Value>::kind,
                check: section!(@check $($check)?),
                problem: |value| parse::<$type>(value, section!(@check $($check)?)).err(),
            }),*];
        }

        impl Section for $name {
            fn keys() -> Vec<&'static Key> {
                let keys = Self::KEYS.iter();
                $($(let keys = keys.chain(<$nested as Section>::keys());)*)?
                keys.collect()
            }

            fn read(entries: &Entries<'_>, problems: &mut Problems) -> Self {
                let mut own = Self::default();
                let mut keys = Self::KEYS.iter();
                $(if let Some(value) = keys.next().and_then(|key| entries.read(key, problems)) {
                    own.$key = value;
                })*
                $($(own.$field = Section::read(entries, problems);)*)?
                own
            }
        }
    };
}
pub(super) use section;

/// What was written for the known keys.
#[derive(Debug, Default)]
pub struct Entries<'a>(HashMap<String, (DeValue<'a>, Option<&'a str>)>);

impl<'a> Entries<'a> {
    /// Creates the entries of one table of the setting `name`, a list of tables.
    pub fn of_table(name: &str, table: &DeTable<'a>) -> Self {
        Entries(
            table.iter().map(|(key, value)| (dotted(name, key.get_ref()), (value.get_ref().clone(), None))).collect(),
        )
    }

    /// Sets the value of a dotted key; `text` is that of an override as it was written.
    pub fn insert(&mut self, key: String, value: DeValue<'a>, text: Option<&'a str>) {
        self.0.insert(key, (value, text));
    }

    /// Forgets the value of a dotted key.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Returns the setting, `None` if it is missing or wrong. Notes a wrong one, and a missing one that is required.
    pub fn read<T: Value>(&self, key: &Key, problems: &mut Problems) -> Option<T> {
        let name = key.dotted();
        let Some((value, text)) = self.0.get(&name) else {
            let replaced = INSTEAD.iter().any(|(required, other)| *required == name && problems.is_written(other));
            if matches!(key.default, DefaultValue::Required) && !problems.is_written(&name) && !replaced {
                problems.with(&name, "is required, and is missing");
            }
            return None;
        };
        // `output_dir=2024-01-31` is a path, although it reads as a TOML date.
        let as_string = || parse(&DeValue::String(Cow::Borrowed((*text)?)), key.check).ok();
        let parsed = parse(value, key.check).or_else(|problem| as_string().ok_or(problem));
        parsed.map_err(|problem| problems.with(&name, problem)).ok()
    }
}

/// Returns a value of the type within the range, or `found ..., expected ...`.
pub fn parse<T: Value>(value: &DeValue<'_>, check: Option<Check>) -> Result<T, String> {
    let in_range = |parsed: &T| check.is_none_or(|(_, holds)| parsed.number().is_none_or(holds));
    match T::from_toml(value) {
        Some(Err(problem)) => Err(problem),
        Some(Ok(parsed)) if in_range(&parsed) => Ok(parsed),
        _ => {
            let expected = check.map_or_else(T::expected, |(range, _)| with_article(range));
            // In Hugging Face, -1 means that max_steps is unset.
            let hint = if integer(value) == Some(-1) { "; omit the key to use its default" } else { "" };
            Err(format!("found {}, expected {expected}{hint}", describe(value)))
        }
    }
}
