//! Texts in files that the program writes.

use serde_json::Value;

/// Returns a text in quotes, as JSON, TOML and YAML read it.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
