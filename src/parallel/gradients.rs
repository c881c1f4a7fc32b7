//! The gradients of a step: cleared, reduced over ranks stage by stage, measured.
//!
//! A stage's reduction starts as soon as its backward ends and runs while the earlier stages compute. Its dense part is
//! one collective. Of a vocabulary table only the rows that the global batch touches are cleared, reduced and measured:
//! every rank knows that set, because every rank knows all ranks' samples.

use crate::comm::{Collective, Op, Pending};
use crate::error::Result;
use crate::nn::params::slice;
use crate::nn::{ParamId, Params};
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// One stage's split into vocabulary tables (first in the buffer) and the dense rest.
#[derive(Debug)]
struct StageParts {
    tables: Vec<ParamId>,
    dense: Range<i64>,
}

/// A reduction under way.
struct Running {
    operation: Pending,
    /// A table's rows, packed, to be written back.
    packed: Option<(ParamId, Tensor)>,
}

/// The state of a step's gradients.
pub struct Gradients {
    comm: Arc<dyn Collective>,
    parts: Vec<StageParts>,
    rows: Tensor,
    running: Vec<Running>,
}

impl Gradients {
    /// For parameters that have gradient buffers.
    pub fn new(params: &Params, comm: Arc<dyn Collective>) -> Self {
        let parts = params
            .stages()
            .iter()
            .map(|stage| {
                let tables: Vec<ParamId> =
                    stage.members.iter().copied().filter(|&id| params.spec(id).row_sparse).collect();
                let start = tables.last().map_or(0, |&id| params.range(id).end);
                StageParts { tables, dense: start..stage.weights.size()[0] }
            })
            .collect();
        let device = params.stages().first().map_or(Device::Cpu, |stage| stage.weights.device());
        Gradients { comm, parts, rows: Tensor::zeros([0], (Kind::Int64, device)), running: Vec::new() }
    }

    /// Starts a step: clears what the step before left, and takes note of the vocabulary rows, i64 `[U]` without
    /// repetition, that this step's global batch touches on any rank.
    ///
    /// # Errors
    /// libtorch's.
    pub fn begin(&mut self, params: &Params, rows: &Tensor) -> Result<()> {
        for stage in 0..self.parts.len() {
            _ = self.dense(params, stage).f_zero_()?;
            for &table in &self.parts[stage].tables {
                _ = params.grad(table).shallow_clone().f_index_fill_(0, &self.rows, 0.0)?;
            }
        }
        self.rows = rows.shallow_clone();
        Ok(())
    }

    /// Starts the reduction of a stage whose backward has ended on this rank, in the order that all ranks keep.
    ///
    /// # Errors
    /// Those of the collective.
    pub fn start(&mut self, params: &Params, stage: usize, name: &str) -> Result<()> {
        if self.comm.world() == 1 {
            return Ok(());
        }
        let dense = self.dense(params, stage);
        if dense.numel() > 0 {
            let operation = self.comm.start_all_reduce(&dense, Op::Sum, &format!("gradients of {name}"))?;
            self.running.push(Running { operation, packed: None });
        }
        for &table in &self.parts[stage].tables {
            let packed = params.grad(table).f_index_select(0, &self.rows)?;
            let what = format!("gradient rows of {}", params.spec(table).name);
            let operation = self.comm.start_all_reduce(&packed, Op::Sum, &what)?;
            self.running.push(Running { operation, packed: Some((table, packed)) });
        }
        Ok(())
    }

    /// Waits for every reduction of the step.
    ///
    /// # Errors
    /// Those of the collective: a dead or late rank.
    pub fn finish(&mut self, params: &Params) -> Result<()> {
        for Running { operation, packed } in self.running.drain(..) {
            operation.wait()?;
            if let Some((table, packed)) = packed {
                _ = params.grad(table).shallow_clone().f_index_copy_(0, &self.rows, &packed)?;
            }
        }
        Ok(())
    }

    /// The global gradient norm (L2, over all parameters), the same on every rank.
    ///
    /// # Errors
    /// libtorch's.
    pub fn norm(&self, params: &Params) -> Result<f64> {
        let mut squares = 0.0;
        for stage in 0..self.parts.len() {
            squares += sum_of_squares(&self.dense(params, stage))?;
            for &table in &self.parts[stage].tables {
                squares += sum_of_squares(&params.grad(table).f_index_select(0, &self.rows)?.f_view(-1)?)?;
            }
        }
        // Another number of threads may round differently: one rank's value is everybody's, or clipping would differ.
        let mut norm = [squares.sqrt()];
        self.comm.all_reduce_f64(&mut norm, Op::Max, "gradient norm")?;
        Ok(norm[0])
    }

    fn dense(&self, params: &Params, stage: usize) -> Tensor {
        let range = &self.parts[stage].dense;
        slice(&params.stages()[stage].grads, range, &[range.end - range.start])
    }
}

/// The sum of squares of a flat f32 tensor. Short runs are summed in f32, the runs in f64: over millions of elements
/// one f32 sum is off by more than a different number of ranks may change.
fn sum_of_squares(x: &Tensor) -> Result<f64> {
    const RUN: i64 = 1024;
    let n = x.numel() as i64;
    let whole = n / RUN * RUN;
    let mut total = 0.0;
    for (part, run) in [(x.f_narrow(0, 0, whole)?, RUN), (x.f_narrow(0, whole, n - whole)?, (n - whole).max(1))] {
        let norms = part.f_view([-1, run])?.f_norm_scalaropt_dim(2, [1i64].as_slice(), false)?;
        total += norms.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double)?.double_value(&[]);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_squares_are_those_of_f64() {
        for n in [0, 1, 1023, 1024, 5000, 3_000_000] {
            let x = Tensor::arange(n, (Kind::Float, Device::Cpu)).sin() + 1.0;
            let exact = x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
            let ours = sum_of_squares(&x).unwrap();
            assert!((ours - exact).abs() <= 1e-7 * exact, "{n}: {ours} and {exact}");
        }
    }
}
