//! Language-model heads: hidden states to logits over the vocabulary.

use crate::nn::embedding::Embedding;
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::{self, Projection};
use crate::ops::gated::activation::Activation;
use tch::Tensor;

/// `logits = x E^T + b`: E `[vocab, width]` is the input embedding matrix (tied, arXiv 1608.05859) or a separate
/// matrix.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    table: ParamId,
    bias: Option<ParamId>,
    /// `[vocab, width]`
    shape: [i64; 2],
}

impl Vocabulary {
    /// Ties the head to the input embedding matrix, which must be declared as tied ([`Embedding::words`]).
    pub fn tied(b: &mut ParamBuilder, words: &Embedding) -> Self {
        b.borrow(words.weight());
        Vocabulary { table: words.weight(), bias: None, shape: words.shape() }
    }

    /// Declares `name.weight` `[vocab, width]`, initialized with standard deviation `std`.
    pub fn own(b: &mut ParamBuilder, name: &str, vocab: i64, width: i64, std: f64) -> Self {
        let table = b.scope(name, |b| b.weight("weight", &[vocab, width], Init::Normal { std }));
        Vocabulary { table, bias: None, shape: [vocab, width] }
    }

    /// Adds a zero `name.bias` `[vocab]`.
    pub fn with_bias(self, b: &mut ParamBuilder, name: &str, vocab: i64) -> Self {
        let bias = b.scope(name, |b| b.vector("bias", vocab, Init::Zeros));
        Vocabulary { bias: Some(bias), ..self }
    }

    /// Adds a bias `name` `[vocab]` that is not trained.
    pub fn with_constant_bias(self, b: &mut ParamBuilder, name: &str) -> Self {
        let bias = b.constant(name, &self.shape[..1], Init::Zeros);
        Vocabulary { bias: Some(bias), ..self }
    }

    /// Returns the cost of the loss of this many rows.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        cross_entropy::cost(how, rows, self.shape)
    }

    /// The projection of `[n, width]` to `[n, vocab]`.
    pub fn forward(&self, ctx: &Ctx, x: Tensor) -> Projection {
        let bias = self.bias.map(|b| ctx.param(b).shallow_clone());
        Projection { x, weight: ctx.param(self.table).shallow_clone(), bias }
    }
}

/// The head of a masked language model (arXiv 1810.04805): a dense layer, its activation and norm, then the vocabulary.
#[derive(Debug)]
pub struct MaskedLmHead {
    dense: Linear,
    activation: Activation,
    norm: Norm,
    vocabulary: Vocabulary,
}

/// The sizes of a [`MaskedLmHead`].
#[derive(Debug, Clone, Copy)]
pub struct MaskedLmConfig {
    pub hidden: i64,
    /// The width of the token embeddings.
    pub embedding: i64,
    pub vocab: i64,
    pub activation: Activation,
    pub norm_eps: f64,
    pub std: f64,
    pub tied: bool,
}

impl MaskedLmHead {
    /// Declares `lm_head.dense`, `lm_head.norm` and `lm_head.bias`; `lm_head.weight` unless it is tied to `words`.
    pub fn new(b: &mut ParamBuilder, config: MaskedLmConfig, words: &Embedding) -> Self {
        let MaskedLmConfig { hidden, embedding, vocab, activation, norm_eps, std, tied } = config;
        b.newly_initialized(|b| {
            let (dense, norm) = b.scope("lm_head", |b| {
                (Linear::new(b, "dense", hidden, embedding, std), Norm::layer(b, "norm", embedding, norm_eps))
            });
            let vocabulary = match tied {
                true => Vocabulary::tied(b, words),
                false => Vocabulary::own(b, "lm_head", vocab, embedding, std),
            };
            let vocabulary = vocabulary.with_bias(b, "lm_head", vocab);
            MaskedLmHead { dense, activation, norm, vocabulary }
        })
    }

    /// Returns the cost for this many rows.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        let dense = self.dense.cost(how, rows, true);
        let kept = how.element() * rows * self.vocabulary.shape[1] as f64;
        let activated = Cost::op(kept, kept, kept, [0.0; 2]);
        [dense, activated, self.norm.cost(how, rows, true), self.vocabulary.cost(how, rows)].into_iter().sum()
    }

    /// The projection of `[n, hidden]` to `[n, vocab]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Projection {
        let x = self.activation.forward(&self.dense.forward(ctx, x));
        self.vocabulary.forward(ctx, self.norm.forward(ctx, &x))
    }
}
