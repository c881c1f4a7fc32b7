//! One tokenised example.

/// What an example should be answered with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// Nothing is known, as for prediction.
    None,
    /// The class of this index.
    Class(u32),
    /// This number.
    Value(f32),
}

/// Token ids with their segments and a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids `[n]`, special tokens included.
    pub ids: Vec<u32>,
    /// Segment of each token `[n]`.
    pub type_ids: Vec<u8>,
    /// The label.
    pub label: Label,
}
