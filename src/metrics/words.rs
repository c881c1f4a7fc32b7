//! Splits texts into words like the reference implementations in Python.

/// Splits at whitespace like Python's `str.split`: Unicode whitespace and the four ASCII separators.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)).filter(|word| !word.is_empty())
}
