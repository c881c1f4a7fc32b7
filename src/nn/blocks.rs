//! Transformer blocks.

use crate::data::ragged::Sequences;
use crate::nn::attention::{AttentionConfig, self_attention};
use crate::nn::linear::Linear;
use crate::nn::norm::LayerNorm;
use crate::nn::{Ctx, ParamBuilder};
use tch::Tensor;

/// The non-linearities, by Hugging Face's names.
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
    /// The activation of a Hugging Face name, `None` for one that is not known.
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

    /// Element by element.
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

/// What a block needs to know.
#[derive(Debug, Clone, Copy)]
pub struct BlockConfig {
    pub hidden: i64,
    pub intermediate: i64,
    pub attention: AttentionConfig,
    pub activation: Activation,
    /// Dropout on the output of attention.
    pub attended_dropout: f64,
    /// Dropout on the output of the feed-forward part.
    pub mlp_dropout: f64,
    pub norm_eps: f64,
    /// Standard deviation of fresh matrices.
    pub std: f64,
}

/// The post-norm encoder block of the original Transformer and of BERT (arXiv 1706.03762, 1810.04805):
/// `x = norm(x + attention(x)); x = norm(x + feed_forward(x))`.
#[derive(Debug)]
pub struct PostNormBlock {
    config: BlockConfig,
    qkv: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

impl PostNormBlock {
    /// Declares the block's parameters. Queries, keys and values are one matrix `[3 * hidden, hidden]`.
    pub fn new(b: &mut ParamBuilder, config: BlockConfig) -> Self {
        let BlockConfig { hidden, intermediate, norm_eps, std, .. } = config;
        PostNormBlock {
            config,
            qkv: Linear::new(b, "attention.qkv", hidden, 3 * hidden, std),
            attention_out: Linear::new(b, "attention.out", hidden, hidden, std),
            attention_norm: LayerNorm::new(b, "attention.norm", hidden, norm_eps),
            up: Linear::new(b, "mlp.up", hidden, intermediate, std),
            down: Linear::new(b, "mlp.down", intermediate, hidden, std),
            norm: LayerNorm::new(b, "mlp.norm", hidden, norm_eps),
        }
    }

    /// Elements that forward keeps for backward: queries, keys, values, attention's result, five `[T, hidden]` around
    /// the norms, the feed-forward part before and after its activation; with dropout the attention weights thrice.
    pub fn activations(&self, tokens: u64, longest: u64) -> u64 {
        let BlockConfig { hidden, intermediate, attention, .. } = self.config;
        let weights = if attention.dropout > 0.0 { 3 * attention.heads as u64 * longest } else { 0 };
        tokens * (9 * hidden as u64 + 2 * intermediate as u64 + weights)
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences) -> Tensor {
        let qkv = self.qkv.forward(ctx, x);
        let attended = self_attention(ctx, &self.config.attention, &qkv, sequences.buckets(), None);
        let attended = self.attention_out.forward(ctx, &attended);
        let attended = ctx.dropout(attended, self.config.attended_dropout);
        let x = self.attention_norm.forward(ctx, &(attended + x));
        let inner = self.config.activation.forward(&self.up.forward(ctx, &x));
        let out = self.down.forward(ctx, &inner);
        let out = ctx.dropout(out, self.config.mlp_dropout);
        self.norm.forward(ctx, &(out + &x))
    }
}
