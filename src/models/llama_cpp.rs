//! What llama.cpp has to know about a model, in the terms of its GGUF files
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): the architecture, its keys and its tensors.

use crate::error::{Error, Result};

/// A model as llama.cpp describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// `general.architecture`, which is the prefix of the keys.
    pub architecture: &'static str,
    /// The keys without the prefix.
    pub keys: Vec<(&'static str, Number)>,
    pub tensors: Vec<GgufTensor>,
    /// Maximum length of a sequence, in tokens.
    pub context_length: u32,
    /// What the user should know about the result.
    pub notes: Vec<String>,
}

/// The value of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Integer(u32),
    Real(f32),
    Word(&'static str),
}

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    pub name: String,
    /// The shape with the contiguous dimension last, as in PyTorch; a GGUF file has the reverse.
    pub shape: Vec<i64>,
    pub source: Source,
    /// Whether it stays fp32 in a file of another type, as norms, biases and tables of positions do.
    pub is_fp32: bool,
}

/// Where the values of a tensor come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A tensor of the model folder, by the name that Hugging Face writes.
    Stored {
        name: String,
        /// `[in, out]` in the folder, as GPT-2's matrices.
        transposed: bool,
        /// Of queries and keys whose heads are rotated in halves in the folder and in pairs of neighbors in llama.cpp:
        /// the number of heads.
        rotated_heads: Option<i64>,
    },
    Values(Vec<f32>),
}

impl GgufTensor {
    /// A matrix or an embedding table that is stored in the same form.
    pub fn matrix(name: impl Into<String>, stored: impl Into<String>, shape: [i64; 2]) -> Self {
        let source = Source::Stored { name: stored.into(), transposed: false, rotated_heads: None };
        GgufTensor { name: name.into(), shape: shape.to_vec(), source, is_fp32: false }
    }

    /// A bias, or the weight of a norm.
    pub fn vector(name: impl Into<String>, stored: impl Into<String>, size: i64) -> Self {
        let source = Source::Stored { name: stored.into(), transposed: false, rotated_heads: None };
        GgufTensor { name: name.into(), shape: vec![size], source, is_fp32: true }
    }

    /// The same, stored transposed.
    pub fn transposed(mut self) -> Self {
        if let Source::Stored { transposed, .. } = &mut self.source {
            *transposed = true;
        }
        self
    }

    /// The same with the rows of each head in the other order of rotary embeddings.
    pub fn rotated(mut self, heads: i64) -> Self {
        if let Source::Stored { rotated_heads, .. } = &mut self.source {
            *rotated_heads = Some(heads);
        }
        self
    }
}

/// Returns the error for a setting of `config.json` that llama.cpp has no key for.
pub fn refused(setting: impl std::fmt::Display, why: &str) -> Error {
    Error::input(format!("{setting}: {why}, so a GGUF file cannot describe this model"))
}

/// Returns a size as a key's value.
///
/// # Errors
/// Exit 2: a size that is no 32-bit number.
pub fn integer(key: &str, size: i64) -> Result<Number> {
    let fits = u32::try_from(size).map(Number::Integer);
    fits.map_err(|_| refused(format!("{key} = {size}"), "the format has 32 bits for it"))
}
