//! Convolution along each sequence.

use crate::data::ragged::Sequences;
use crate::nn::residual::ResidualNorm;
use crate::nn::{ComputeMode, Cost, Ctx, Init, ParamBuilder, ParamId, rng};
use crate::ops::gated::activation::Activation;
use crate::ops::{dropout, linear};
use tch::{Kind, Tensor};

/// Configuration of a [`Convolution`].
#[derive(Debug, Clone, Copy)]
pub struct ConvolutionConfig {
    pub hidden: i64,
    /// Number of tokens that a token's result depends on; odd.
    pub kernel: i64,
    pub activation: Activation,
    /// Dropout before the activation.
    pub dropout: f64,
    pub norm_eps: f64,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
}

/// `norm(y + f(dropout(conv(x))))`: a convolution along each sequence, with zeros before and after it.
#[derive(Debug)]
pub struct Convolution {
    config: ConvolutionConfig,
    /// `[hidden, hidden * kernel]`: the weights of an input's tokens are next to each other.
    weight: ParamId,
    bias: ParamId,
    norm: ResidualNorm,
}

impl Convolution {
    /// Declares `weight` `[hidden, hidden * kernel]`, `bias` `[hidden]` and `norm`.
    pub fn new(b: &mut ParamBuilder, config: ConvolutionConfig) -> Self {
        let ConvolutionConfig { hidden, kernel, norm_eps, std, .. } = config;
        Convolution {
            config,
            weight: b.weight("weight", &[hidden, hidden * kernel], Init::Normal { std }),
            bias: b.vector("bias", hidden, Init::Zeros),
            norm: ResidualNorm::new(b, "norm", hidden, norm_eps, 0.0),
        }
    }

    /// x and y, `[T, hidden]`, to the same shape.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, y: &Tensor, sequences: &Sequences) -> Tensor {
        let windows = self.windows(x, sequences);
        let convolved = linear::linear(&windows, ctx.param(self.weight), Some(ctx.param(self.bias)));
        let convolved = self.config.activation.forward(&ctx.dropout(convolved, self.config.dropout));
        self.norm.forward(ctx, convolved, y)
    }

    /// The tokens around each token, `[T, hidden * kernel]`; those beyond its sequence are zero.
    fn windows(&self, x: &Tensor, sequences: &Sequences) -> Tensor {
        let ConvolutionConfig { hidden, kernel, .. } = self.config;
        let key = rng::key(rng::hash_name("convolution"), &[kernel as u64]);
        let around = sequences.derived(key, || vec![around(sequences.positions(), kernel)]).swap_remove(0);
        let zero = Tensor::zeros([1, hidden], (x.kind(), x.device()));
        let rows = Tensor::cat(&[x, &zero], 0).index_select(0, &around);
        rows.view([-1, kernel, hidden]).transpose(1, 2).reshape([-1, hidden * kernel])
    }

    /// Returns the cost for this many tokens; other parts keep x.
    pub fn cost(&self, how: &ComputeMode, tokens: f64) -> Cost {
        let ConvolutionConfig { hidden, kernel, activation, dropout, .. } = self.config;
        let (numbers, e) = (tokens * hidden as f64, how.element());
        let windows = e * numbers * kernel as f64;
        let product = linear::cost(how, tokens, [hidden, hidden * kernel], true);
        let gathered = Cost::op(0.0, e * numbers, windows, [windows + e * numbers; 2]);
        let activated = match activation.is_of_result() {
            true => Cost::op(e * numbers, e * numbers, 0.0, [0.0; 2]),
            false => Cost::op(e * numbers, e * numbers, e * numbers, [0.0; 2]),
        };
        let all = [gathered, product, dropout::cost(how, numbers, dropout), activated, self.norm.cost(how, tokens)];
        // The layer's output and its gradient.
        all.into_iter().sum::<Cost>().beside(e * numbers)
    }
}

/// Returns the tokens around each token, from the tokens' positions i64 `[T]`: i64 `[T * kernel]`, T for those beyond
/// its sequence.
fn around(positions: &Tensor, kernel: i64) -> Tensor {
    let (count, side, options) = (positions.size()[0], kernel / 2, (Kind::Int64, positions.device()));
    let offsets = Tensor::arange_start(-side, side + 1, options);
    let tokens = Tensor::arange(count, options).unsqueeze(1) + &offsets;
    let found = positions.index_select(0, &tokens.clamp(0, count - 1).view(-1)).view([count, kernel]);
    // Of another sequence, or none, the position is another one.
    let is_same = found.eq_tensor(&(positions.unsqueeze(1) + offsets));
    tokens.where_self(&is_same, &Tensor::full([1], count, options)).view(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_with_the_sequence() {
        let sequences = Sequences::new(vec![3, 1, 2]);
        let around: Vec<i64> = Vec::try_from(around(sequences.positions(), 3)).unwrap();
        assert_eq!(around, [6, 0, 1, 0, 1, 2, 1, 2, 6, 6, 3, 6, 6, 4, 5, 4, 5, 6]);
        let wide: Vec<i64> = Vec::try_from(super::around(sequences.positions(), 5)).unwrap();
        assert_eq!(wide[..10], [6, 6, 0, 1, 2, 6, 0, 1, 2, 6]);
    }
}
