//! What a forward pass carries besides its tensors: the parameters, the mode, the chance and the row gradients.

use crate::error::Result;
use crate::ffi;
use crate::nn::params::{ParamId, Params};
use crate::nn::rng;
use tch::{Device, Kind, Tensor};

/// The coordinates of a pass: dropout is a pure function of them and of the stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    pub seed: u64,
    pub step: u64,
    pub micro_batch: u64,
    pub rank: u64,
}

/// Rows that a look-up took from a table; their gradient goes back by [`Ctx::scatter_rows`].
#[derive(Debug)]
struct Rows {
    table: ParamId,
    ids: Tensor,
    rows: Tensor,
}

/// The context of one stage's forward pass.
#[derive(Debug)]
pub struct Ctx<'a> {
    params: &'a Params,
    train: bool,
    key: u64,
    draws: u64,
    rows: Vec<Rows>,
}

impl<'a> Ctx<'a> {
    /// A pass with dropout and gradients, at `stage`.
    pub fn train(params: &'a Params, pass: Pass, stage: usize) -> Self {
        let key = rng::key(pass.seed, &[pass.step, pass.micro_batch, stage as u64, pass.rank]);
        Ctx { params, train: true, key, draws: 0, rows: Vec::new() }
    }

    /// A pass without dropout and without gradients.
    pub fn eval(params: &'a Params) -> Self {
        Ctx { params, train: false, key: 0, draws: 0, rows: Vec::new() }
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
        self.draws += 1;
        let key = rng::key(self.key, &[self.draws]);
        match (x.device(), x.kind()) {
            (Device::Cpu, Kind::Float) => {
                ffi::dropout(&x, p, key).unwrap_or_else(|e| panic!("dropout of {:?}: {e}", x.size()))
            }
            _ => {
                // A GPU's generator belongs to this process alone, so seeding it here makes the draw a function of the key.
                tch::manual_seed(key.cast_signed());
                x.dropout(p, true)
            }
        }
    }

    /// Rows `ids` `[T]` of an embedding table: `[T, width]`.
    pub fn rows(&mut self, table: ParamId, ids: &Tensor) -> Tensor {
        let rows = self.param(table).detach().index_select(0, ids);
        if !self.train {
            return rows;
        }
        let rows = rows.set_requires_grad(true);
        self.rows.push(Rows { table, ids: ids.shallow_clone(), rows: rows.shallow_clone() });
        rows
    }

    /// After backward: adds the gradients of looked-up rows to their tables' gradients.
    ///
    /// # Errors
    /// libtorch's, out of memory among them.
    pub fn scatter_rows(&mut self) -> Result<()> {
        for Rows { table, ids, rows } in self.rows.drain(..) {
            let grad = rows.grad();
            if grad.defined() {
                _ = self.params.grad(table).shallow_clone().f_index_add_(0, &ids, &grad)?;
            }
        }
        Ok(())
    }
}
