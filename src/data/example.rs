//! One tokenised example.

/// A token that has no label: Hugging Face's `ignore_index`.
pub const NO_LABEL: i32 = -100;

/// What an example should be answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// Nothing is known, as for prediction.
    None,
    /// The class of this index.
    Class(u32),
    /// This number.
    Value(f32),
    /// Which of C labels apply, `[C]`.
    Flags(Vec<bool>),
    /// The first and the last token of an answer, counted in the example.
    Span { start: u32, end: u32 },
    /// A class for each token `[n]`, [`NO_LABEL`] for none.
    Tokens(Vec<i32>),
    /// The same, and a class for the whole.
    TokensAndClass(Vec<i32>, u32),
}

/// Token ids with their segments and a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids `[n]`, special tokens included, of all its sequences one after another.
    pub ids: Vec<u32>,
    /// Segment of each token `[n]`.
    pub type_ids: Vec<u8>,
    /// The tokens of each of its sequences; they add up to n. One for most tasks; the choices of a question, the
    /// documents of a packed block, a source and its target.
    pub lengths: Vec<u32>,
    /// The label.
    pub label: Label,
}

/// What the model gets of an example, and what it predicts.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// `[n]`: the example's ids; some may be masked.
    pub ids: Vec<u32>,
    /// The target tokens: (position, class). The position counts the example's tokens; for an encoder-decoder, those of the
    /// target sequence.
    pub targets: Vec<(u32, u32)>,
}

impl Example {
    /// An example of one sequence.
    pub fn single(ids: Vec<u32>, type_ids: Vec<u8>, label: Label) -> Self {
        let lengths = vec![ids.len() as u32];
        Example { ids, type_ids, lengths, label }
    }
}
