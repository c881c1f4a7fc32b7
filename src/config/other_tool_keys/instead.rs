//! What to do instead of a setting of another tool.

/// What to do instead of a key of another tool. An example is an assignment that is valid as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Instead {
    /// A setting of ours with the same values: an example, and a note.
    Same(&'static str, &'static str),
    /// A setting of ours with other values: an example, and a note.
    Ours(&'static str, &'static str),
    /// A setting of ours, which is off by default: an example, and a note.
    On(&'static str, &'static str),
    /// Not supported: the name of the feature, and what to do instead.
    Missing(&'static str, &'static str),
    /// Why there is nothing to set.
    Needless(&'static str),
}

/// Names, in lower case and with `_`, and what to do instead. A name with its section takes precedence.
pub type Row = (&'static [&'static str], Instead);
