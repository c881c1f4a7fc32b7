//! Language-model heads: hidden states to logits over the vocabulary.

use crate::nn::embedding::Embedding;
use crate::nn::prediction_head::{PredictionHead, PredictionHeadConfig};
use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::{self, Projection};
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

/// The head of a masked language model (arXiv 1810.04805): a prediction head, then the vocabulary.
#[derive(Debug)]
pub struct MaskedLmHead {
    head: PredictionHead,
    vocabulary: Vocabulary,
}

/// Configuration of a [`MaskedLmHead`].
#[derive(Debug, Clone, Copy)]
pub struct MaskedLmConfig {
    /// Its result is as wide as the token embeddings.
    pub head: PredictionHeadConfig,
    pub vocab: i64,
    /// Whether the vocabulary has a bias.
    pub bias: bool,
    pub tied: bool,
}

impl MaskedLmHead {
    /// Declares `lm_head.dense`, `lm_head.norm` and `lm_head.bias`; `lm_head.weight` unless it is tied to `words`.
    pub fn new(b: &mut ParamBuilder, config: MaskedLmConfig, words: &Embedding) -> Self {
        let MaskedLmConfig { head, vocab, bias, tied } = config;
        b.newly_initialized(|b| {
            let layers = PredictionHead::new(b, "lm_head", head);
            let vocabulary = match tied {
                true => Vocabulary::tied(b, words),
                false => Vocabulary::own(b, "lm_head", vocab, head.width, head.std),
            };
            let vocabulary = if bias { vocabulary.with_bias(b, "lm_head", vocab) } else { vocabulary };
            MaskedLmHead { head: layers, vocabulary }
        })
    }

    /// Returns the cost for this many rows.
    pub fn cost(&self, how: &ComputeMode, rows: f64) -> Cost {
        self.head.cost(how, rows).then(self.vocabulary.cost(how, rows))
    }

    /// The projection of `[n, hidden]` to `[n, vocab]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Projection {
        let x = self.head.forward(ctx, x);
        self.vocabulary.forward(ctx, x)
    }
}
