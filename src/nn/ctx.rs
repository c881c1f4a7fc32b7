//! What a forward pass carries besides its tensors: the parameters, the mode, the chance and the row gradients.

use crate::data::ragged::Bucket;
use crate::ffi;
use crate::nn::cache::StageCache;
use crate::nn::param_builder::ParamId;
use crate::nn::params::Params;
use crate::nn::rng;
use tch::{Device, Tensor};

/// The coordinates of a pass: dropout is a pure function of them and of the stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    pub seed: u64,
    pub step: u64,
    pub micro_batch: u64,
    pub rank: u64,
}

/// Rows that a look-up took from a table; their gradient is handed out by [`Ctx::row_gradients`].
#[derive(Debug)]
struct Rows {
    table: ParamId,
    ids: Tensor,
    rows: Tensor,
}

/// What backward found for the rows of a table.
#[derive(Debug)]
pub struct RowGradient {
    pub table: ParamId,
    /// i64 `[T]`, with repetitions.
    pub ids: Tensor,
    /// `[T, width]`, to be added to the rows `ids` of the table's gradient.
    pub grad: Tensor,
}

/// The context of one stage's forward pass.
#[derive(Debug)]
pub struct Ctx<'a> {
    params: &'a Params,
    train: bool,
    key: u64,
    draws: u64,
    rows: Vec<Rows>,
    memory: Option<&'a mut StageCache>,
}

impl<'a> Ctx<'a> {
    /// A pass with dropout and gradients, at `stage`.
    pub fn train(params: &'a Params, pass: Pass, stage: usize) -> Self {
        let key = rng::key(pass.seed, &[pass.step, pass.micro_batch, stage as u64, pass.rank]);
        Ctx { params, train: true, key, draws: 0, rows: Vec::new(), memory: None }
    }

    /// A pass without dropout and without gradients.
    pub fn eval(params: &'a Params) -> Self {
        Ctx { params, train: false, key: 0, draws: 0, rows: Vec::new(), memory: None }
    }

    /// The same, while text is generated: attention remembers the tokens of earlier passes in `cache`.
    pub fn generate(params: &'a Params, cache: &'a mut StageCache) -> Self {
        cache.begin();
        Ctx { memory: Some(cache), ..Ctx::eval(params) }
    }

    /// Whether attention remembers earlier tokens.
    pub fn remembers(&self) -> bool {
        self.memory.is_some()
    }

    /// What the stage computes, or in later passes of a generation what it computed in the first: for what does not
    /// change with the tokens that are added, such as keys and values of an encoder's output. `[encoder's tokens, ..]`.
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

    /// Remembers keys and values of sequences that attend to themselves; returns those of all their tokens, each
    /// `[sequences, longest, width]`, if the buckets want earlier ones too.
    pub(super) fn remember(&mut self, kv: [&Tensor; 2], buckets: &[Bucket]) -> Option<[Tensor; 2]> {
        self.memory.as_mut().filter(|_| buckets.iter().all(Bucket::is_own))?.remember(kv, buckets)
    }

    /// Whether dropout is on and gradients are wanted.
    pub fn is_train(&self) -> bool {
        self.train
    }

    /// The tensor of a parameter.
    pub fn param(&self, id: ParamId) -> &'a Tensor {
        self.params.view(id)
    }

    /// Dropout with probability `p`, of any shape; the identity outside training.
    pub fn dropout(&mut self, x: Tensor, p: f64) -> Tensor {
        if !self.train || p == 0.0 || x.numel() == 0 {
            return x;
        }
        if x.device() == Device::Cpu {
            let key = self.draw();
            return ffi::layers::dropout(&x, p, key).unwrap_or_else(|e| panic!("dropout of {:?}: {e}", x.size()));
        }
        self.seed_device();
        x.dropout(p, true)
    }

    /// Makes the GPU's next draw a function of the key of the stage's next draw: its generator belongs to this process
    /// alone.
    pub(super) fn seed_device(&mut self) {
        tch::manual_seed(self.draw().cast_signed());
    }

    /// The key of the stage's next draw.
    pub fn draw(&mut self) -> u64 {
        self.draws += 1;
        rng::key(self.key, &[self.draws])
    }

    /// Rows `ids` `[T]` of an embedding table: `[T, width]`.
    pub fn rows(&mut self, table: ParamId, ids: &Tensor) -> Tensor {
        let rows = self.param(table).detach().index_select(0, ids);
        if !self.train || !self.param(table).requires_grad() {
            return rows;
        }
        let rows = rows.set_requires_grad(true);
        self.rows.push(Rows { table, ids: ids.shallow_clone(), rows: rows.shallow_clone() });
        rows
    }

    /// After backward: the gradients of the rows that were looked up, in the order of the look-ups.
    pub fn row_gradients(&mut self) -> impl Iterator<Item = RowGradient> {
        let found = self.rows.drain(..).map(|Rows { table, ids, rows }| RowGradient { table, ids, grad: rows.grad() });
        found.filter(|row| row.grad.defined())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ParamBuilder;
    use tch::Kind;

    fn mask(pass: Pass, stage: usize, p: f64) -> Tensor {
        let params = Params::new(ParamBuilder::new().finish(), 1, Kind::Float, Device::Cpu, false).unwrap();
        Ctx::train(&params, pass, stage).dropout(Tensor::ones([400, 500], (Kind::Float, Device::Cpu)), p)
    }

    /// As many survivors as asked for, scaled so that the mean stays; masks of different places are independent.
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
        assert!(mask(Pass::default(), 0, 0.5).equal(&mask(Pass::default(), 0, 0.5)), "a function of its place");
    }

    /// The gradient is zero where the value was dropped, and scaled where it was kept.
    #[test]
    fn dropout_has_the_mask_again_in_backward() {
        let params = Params::new(ParamBuilder::new().finish(), 1, Kind::Float, Device::Cpu, false).unwrap();
        let x = Tensor::ones([300, 70], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = Ctx::train(&params, Pass::default(), 3).dropout(x.shallow_clone(), 0.3);
        // A gradient that is not contiguous, as a transposed use makes it.
        let g = Tensor::ones([70, 300], (Kind::Float, Device::Cpu)).tr();
        ffi::backward(&[&y], &[&g]).unwrap();
        assert!(x.grad().equal(&y.detach()));
    }
}
