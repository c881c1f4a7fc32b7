//! Embedding matrices.

use crate::nn::{Ctx, Init, ParamBuilder, ParamId};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::{dropout, noise};
use tch::Tensor;

/// An embedding matrix `[rows, width]` with a row-sparse gradient: a dense gradient of the vocabulary costs more than
/// everything else in a small batch.
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: ParamId,
    /// `[rows, width]`
    shape: [i64; 2],
}

/// Returns the cost of rows from this many matrices, each with this many `numbers`, and of dropout on their sum. The
/// rows are kept until their gradients exist, which is at the same time; those of one matrix without dropout are the
/// block's boundary activations. With noise these are another tensor, and the noise is made while there are only the
/// rows of the tokens.
pub fn cost(how: &ComputeMode, numbers: f64, tables: usize, dropout: f64) -> Cost {
    let (rows, tables) = (how.element() * numbers, tables as f64);
    if how.noise {
        let made = rows + noise::BYTES * numbers;
        let kept = if tables == 1.0 && dropout == 0.0 { rows } else { 0.0 };
        let noised = Cost { kept, forward: made, backward: kept, alone: made, ..Cost::default() };
        return noised.then(cost(&ComputeMode { noise: false, ..*how }, numbers, tables as usize, dropout));
    }
    if tables == 1.0 && dropout == 0.0 {
        return Cost::op(0.0, 0.0, rows, [0.0; 2]);
    }
    Cost::op(tables * rows, (tables - 1.0) * rows, rows, [rows, 0.0]).then(dropout::cost(how, numbers, dropout))
}

impl Embedding {
    /// Declares `weight` `[rows, width]`, initialized with standard deviation `std`.
    pub fn new(b: &mut ParamBuilder, name: &str, rows: i64, width: i64, std: f64) -> Self {
        b.scope(name, |b| Embedding {
            weight: b.weight("weight", &[rows, width], Init::Normal { std }),
            shape: [rows, width],
        })
    }

    /// Declares an input embedding matrix that no head shares.
    pub fn vocabulary(b: &mut ParamBuilder, name: &str, rows: i64, width: i64, std: f64) -> Self {
        b.scope(name, |b| Embedding {
            weight: b.vocabulary("weight", rows, width, Init::Normal { std }),
            shape: [rows, width],
        })
    }

    /// Declares the input embedding matrix; a head that is `tied` to it needs its dense gradient.
    pub fn words(b: &mut ParamBuilder, name: &str, rows: i64, width: i64, std: f64, tied: bool) -> Self {
        if tied { Self::new(b, name, rows, width, std) } else { Self::vocabulary(b, name, rows, width, std) }
    }

    /// The same look-up in the builder's block, a later one.
    pub fn shared(&self, b: &mut ParamBuilder) -> Self {
        b.borrow_rows(self.weight);
        self.clone()
    }

    /// Number of rows and their width.
    pub fn shape(&self) -> [i64; 2] {
        self.shape
    }

    pub fn weight(&self) -> ParamId {
        self.weight
    }

    /// Looks up `ids` `[T]`: `[T, width]`. Every id must be below the number of rows (checked when data is prepared).
    pub fn forward(&self, ctx: &mut Ctx, ids: &Tensor) -> Tensor {
        ctx.rows(self.weight, ids)
    }

    /// Looks up token ids as [`Embedding::forward`] does, and adds NEFTune's noise to their embeddings: `noise` has a key
    /// for each token, i64 `[T]`, and a scale, f32 `[T, 1]`. The noise is uniform up to the scale / sqrt(width).
    /// There is none outside training.
    pub fn tokens(&self, ctx: &mut Ctx, ids: &Tensor, noise: Option<[&Tensor; 2]>) -> Tensor {
        let (rows, [_, width]) = (self.forward(ctx, ids), self.shape);
        match noise.filter(|_| ctx.is_train()) {
            None => rows,
            Some([keys, scales]) => {
                let noise = noise::uniform(keys, width).g_mul_(&(scales / (width as f64).sqrt()));
                let noise = noise.to_kind(rows.kind());
                rows + noise
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Params, Pass};
    use tch::{Device, Kind};

    /// Algorithm 1 of arXiv 2310.05914: uniform noise up to alpha / sqrt(L d), in half precision too.
    #[test]
    fn noise_has_the_scale_of_the_formula() {
        let (alpha, lengths, width) = (5.0, [4_i64, 100], 64);
        let scales: Vec<f32> =
            lengths.iter().flat_map(|&n| vec![(alpha / (n as f64).sqrt()) as f32; n as usize]).collect();
        let scales = Tensor::from_slice(&scales).unsqueeze(1);
        let keys = Tensor::arange(104, (Kind::Int64, Device::Cpu)) * 0x1234_5678_9abc;
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut b = ParamBuilder::new();
            let words = Embedding::words(&mut b, "words", 3, width, 0.0, false);
            let params = Params::new(b.finish(), 1, kind, Device::Cpu, false).unwrap();
            let mut ctx = Ctx::train(&params, Pass::default(), 0);
            let ids = Tensor::zeros([104], (Kind::Int64, Device::Cpu));
            let plain = words.tokens(&mut ctx, &ids, None).to_kind(Kind::Float);
            let noise = words.tokens(&mut ctx, &ids, Some([&keys, &scales]));
            assert_eq!(noise.kind(), kind);
            let noise = noise.to_kind(Kind::Float) - plain;
            for (start, length) in [(0, lengths[0]), (lengths[0], lengths[1])] {
                let (own, bound) = (noise.narrow(0, start, length), alpha / ((length * width) as f64).sqrt());
                let largest = own.abs().max().double_value(&[]) / bound;
                assert!((0.95..1.004).contains(&largest), "{kind:?}: {largest} times the bound");
                let variance = own.square().mean(Kind::Double).double_value(&[]) / (bound * bound);
                assert!(
                    (variance - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / (length * width) as f64).sqrt(),
                    "{variance}"
                );
            }
        }
    }
}
