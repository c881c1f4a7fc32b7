//! The context of a forward pass: parameters, mode, RNG keys and row gradients.

use crate::data::ragged::Bucket;
use crate::nn::cache::BlockCache;
use crate::nn::param_builder::ParamId;
use crate::nn::params::Params;
use crate::nn::rng;
use crate::ops;
use crate::ops::linear::int8::Int8Weight;
use tch::Tensor;

/// The coordinates of a pass; dropout is a pure function of them and of the block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    pub seed: u64,
    pub step: u64,
    pub micro_batch: u64,
    pub rank: u64,
}

/// Rows that a look-up took from an embedding matrix; [`Ctx::row_gradients`] returns their gradient.
#[derive(Debug)]
struct Rows {
    table: ParamId,
    ids: Tensor,
    rows: Tensor,
}

/// The gradient of looked-up rows of an embedding matrix.
#[derive(Debug)]
pub struct RowGradient {
    pub table: ParamId,
    /// i64 `[T]`, with repetitions.
    pub ids: Tensor,
    /// `[T, width]`, to be added to the rows `ids` of the matrix's gradient.
    pub grad: Tensor,
}

/// The context of one block's forward pass.
#[derive(Debug)]
pub struct Ctx<'a> {
    params: &'a Params,
    train: bool,
    key: u64,
    keys_used: u64,
    rows: Vec<Rows>,
    memory: Option<&'a mut BlockCache>,
}

impl<'a> Ctx<'a> {
    /// Returns the context of `block` with dropout and gradients.
    pub fn train(params: &'a Params, pass: Pass, block: usize) -> Self {
        let key = rng::key(pass.seed, &[pass.step, pass.micro_batch, block as u64, pass.rank]);
        Ctx { params, train: true, key, keys_used: 0, rows: Vec::new(), memory: None }
    }

    /// Returns a context without dropout and gradients.
    pub fn eval(params: &'a Params) -> Self {
        Ctx { params, train: false, key: 0, keys_used: 0, rows: Vec::new(), memory: None }
    }

    /// Returns a context for generation, without dropout and gradients, with a KV cache.
    pub fn generate(params: &'a Params, cache: &'a mut BlockCache) -> Self {
        cache.begin();
        Ctx { memory: Some(cache), ..Ctx::eval(params) }
    }

    /// Returns whether there is a KV cache.
    pub fn has_cache(&self) -> bool {
        self.memory.is_some()
    }

    /// Computes a tensor once per generation, in its first pass: for what does not change with new tokens, such as keys
    /// and values of an encoder's output. `[encoder's tokens, ..]`.
    pub fn once(&mut self, compute: impl FnOnce(&mut Self) -> Tensor) -> Tensor {
        let known = self.memory.as_mut().and_then(|memory| memory.constant());
        known.unwrap_or_else(|| {
            let value = compute(self);
            if let Some(memory) = &mut self.memory {
                memory.set_constant(&value);
            }
            value
        })
    }

    /// Adds keys and values of self-attention to the KV cache; returns those of all tokens, each `[sequences, longest,
    /// width]`, if the buckets attend to earlier ones.
    pub(super) fn update_cache(&mut self, kv: [&Tensor; 2], buckets: &[Bucket]) -> Option<[Tensor; 2]> {
        self.memory.as_mut().filter(|_| buckets.iter().all(Bucket::is_own))?.update(kv, buckets)
    }

    /// Returns whether dropout is on and gradients are recorded.
    pub fn is_train(&self) -> bool {
        self.train
    }

    /// Returns the tensor of a parameter.
    ///
    /// # Panics
    /// If the parameter is kept in int8: then only [`Ctx::int8`] has it.
    pub fn param(&self, id: ParamId) -> &'a Tensor {
        assert!(self.int8(id).is_none(), "{} is kept in int8", self.params.spec(id).name);
        self.params.view(id)
    }

    /// Returns a linear layer's weight if it is kept in int8.
    pub fn int8(&self, id: ParamId) -> Option<&'a Int8Weight> {
        self.params.int8(id)
    }

    /// Applies dropout with probability `p` to a tensor of any shape; the identity outside training.
    pub fn dropout(&mut self, x: Tensor, p: f64) -> Tensor {
        if x.numel() == 0 {
            return x;
        }
        self.drops(p).map_or(x.shallow_clone(), |(p, key)| ops::dropout::dropout(x, p, key))
    }

    /// Returns the probability and the key of the block's next dropout; `None` outside training and for `p` 0.
    pub fn drops(&mut self, p: f64) -> Option<(f64, u64)> {
        (self.train && p > 0.0).then(|| (p, self.next_key()))
    }

    /// Returns the key of the block's next random operation.
    pub fn next_key(&mut self) -> u64 {
        self.keys_used += 1;
        rng::key(self.key, &[self.keys_used])
    }

    /// Looks up rows `ids` `[T]` of an embedding matrix: `[T, width]`.
    pub fn rows(&mut self, table: ParamId, ids: &Tensor) -> Tensor {
        let rows = self.param(table).detach().index_select(0, ids);
        if !self.train || !self.param(table).requires_grad() {
            return rows;
        }
        let rows = rows.set_requires_grad(true);
        self.rows.push(Rows { table, ids: ids.shallow_clone(), rows: rows.shallow_clone() });
        rows
    }

    /// Returns the gradients of the looked-up rows after backward, in the order of the look-ups.
    pub fn row_gradients(&mut self) -> impl Iterator<Item = RowGradient> {
        let found = self.rows.drain(..).map(|Rows { table, ids, rows }| RowGradient { table, ids, grad: rows.grad() });
        found.filter(|row| row.grad.defined())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi;
    use crate::nn::ParamBuilder;
    use tch::{Device, Kind};

    fn mask(pass: Pass, block: usize, p: f64) -> Tensor {
        let params = Params::new(ParamBuilder::new().finish(), 1, Kind::Float, Device::Cpu, false).unwrap();
        Ctx::train(&params, pass, block).dropout(Tensor::ones([400, 500], (Kind::Float, Device::Cpu)), p)
    }

    /// The expected number of elements is kept and scaled so that the mean stays; masks of different keys are
    /// independent.
    #[test]
    fn dropout_keeps_its_share_and_its_mean() {
        let n = 200_000.0;
        for p in [0.1, 0.5, 0.9] {
            let x = mask(Pass::default(), 0, p);
            let kept = x.count_nonzero(None::<i64>).int64_value(&[]) as f64 / n;
            assert!((kept - (1.0 - p)).abs() < 5.0 * (p * (1.0 - p) / n).sqrt(), "p {p}: kept {kept}");
            assert!((x.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.02, "p {p}: the mean");
        }
        let base = mask(Pass::default(), 0, 0.5) - 1.0;
        let others = [
            mask(Pass { seed: 1, ..Pass::default() }, 0, 0.5),
            mask(Pass { step: 1, ..Pass::default() }, 0, 0.5),
            mask(Pass { micro_batch: 1, ..Pass::default() }, 0, 0.5),
            mask(Pass { rank: 1, ..Pass::default() }, 0, 0.5),
            mask(Pass::default(), 1, 0.5),
            mask(Pass::default(), 0, 0.5).roll([1], [0]),
            mask(Pass::default(), 0, 0.5).roll([1], [1]),
        ];
        for (i, other) in others.iter().enumerate() {
            let correlation = (&base * (other - 1.0)).mean(Kind::Double).double_value(&[]);
            assert!(correlation.abs() < 5.0 / f64::sqrt(n), "mask {i} is correlated: {correlation}");
        }
        assert!(mask(Pass::default(), 0, 0.5).equal(&mask(Pass::default(), 0, 0.5)), "a function of its key");
    }

    /// The gradient is zero where the value was dropped, and scaled where it was kept.
    #[test]
    fn dropout_has_the_mask_again_in_backward() {
        let params = Params::new(ParamBuilder::new().finish(), 1, Kind::Float, Device::Cpu, false).unwrap();
        let x = Tensor::ones([300, 70], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = Ctx::train(&params, Pass::default(), 3).dropout(x.shallow_clone(), 0.3);
        // A gradient that is not contiguous, as after a transposed use.
        let g = Tensor::ones([70, 300], (Kind::Float, Device::Cpu)).tr();
        ffi::backward(&[&y], &[&g]).unwrap();
        assert!(x.grad().equal(&y.detach()));
    }
}
