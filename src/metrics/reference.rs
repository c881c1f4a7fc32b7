//! Test helpers: reading the reference values written by `tests/reference/metrics.py`.

use serde_json::Value;

/// Returns the list `name` of a JSON file, given its text.
pub fn list(file: &str, name: &str) -> Vec<Value> {
    let mut file: Value = serde_json::from_str(file).unwrap();
    let Value::Array(list) = file[name].take() else { panic!("no list {name:?}") };
    assert!(!list.is_empty(), "{name:?} is empty");
    list
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

pub fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(text).collect()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(number).collect()
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Reads a list of counts or indices.
pub fn counts<T: TryFrom<u64, Error: std::fmt::Debug>>(value: &Value) -> Vec<T> {
    let count = |v: &Value| T::try_from(v.as_u64().unwrap_or_else(|| panic!("{v} is no count"))).unwrap();
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(count).collect()
}

/// Asserts that `found` equals `expected` up to rounding.
#[track_caller]
pub fn close(found: f64, expected: f64, of: &Value) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "found {found}, expected {expected}: {of}");
}
