//! One tokenized example.

/// The label of a token that is not a target: Hugging Face's `ignore_index`.
pub const NO_LABEL: i32 = -100;

/// The target of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// Unknown, as for prediction.
    None,
    /// A class index.
    Class(u32),
    /// A number.
    Value(f32),
    /// Which of C labels apply, `[C]` (multi-label).
    Flags(Vec<bool>),
    /// The first and the last token of an answer, relative to the example.
    Span { start: u32, end: u32 },
    /// A class for each token `[n]`; [`NO_LABEL`] for tokens without one.
    Tokens(Vec<i32>),
    /// A class for each token, and one for the example.
    TokensAndClass(Vec<i32>, u32),
}

/// Token ids with their segments and a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids `[n]`, special tokens included, of all sequences one after another.
    pub ids: Vec<u32>,
    /// Segment of each token `[n]`.
    pub type_ids: Vec<u8>,
    /// Number of tokens of each sequence; they add up to n. Most tasks have one sequence; others have the choices of a
    /// question, the documents of a packed block, or a source and its target.
    pub lengths: Vec<u32>,
    pub label: Label,
}

/// The model's inputs and targets for an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// `[n]`: the example's ids; some may be masked.
    pub ids: Vec<u32>,
    /// The targets: (position, class). Positions count the example's tokens, or those of an encoder-decoder's target.
    pub targets: Vec<(u32, u32)>,
}

impl Example {
    /// Returns an example of one sequence.
    pub fn single(ids: Vec<u32>, type_ids: Vec<u8>, label: Label) -> Self {
        let lengths = vec![ids.len() as u32];
        Example { ids, type_ids, lengths, label }
    }
}
