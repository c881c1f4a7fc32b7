//! Activation functions.

use tch::Tensor;

/// Activation functions, by their Hugging Face names; numbered as in `cpu.cpp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: exact (arXiv 1606.08415).
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: the tanh approximation of the same paper.
    GeluTanh,
    Relu,
    /// `silu`, `swish`.
    Silu,
    Tanh,
}

impl Activation {
    /// Returns the activation of a Hugging Face name, or `None` for an unknown name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            _ => return None,
        })
    }

    /// Whether its gradient is computed from the result.
    pub fn is_of_result(self) -> bool {
        matches!(self, Self::Relu | Self::Tanh)
    }

    /// Applies the activation element by element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Tanh => x.tanh(),
        }
    }
}
