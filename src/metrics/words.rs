//! Words of a text, as the Python tools that we agree with see them.

/// The words between white space, as Python's `str.split` finds them: beside Unicode's white space, the four
/// separators of ASCII divide too.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)).filter(|word| !word.is_empty())
}
