//! The gradients of a step: accumulated block by block, reduced over the ranks, measured.
//!
//! The reduction of a block starts when its backward ends and runs while the earlier blocks compute. If gradients are
//! not sharded, micro-batches accumulate in whole buffers and the last one reduces them. If they are, each micro-batch
//! reduces a buffer that exists only for its block, and a rank adds its shard of the result to its sum.
//! Of an embedding matrix only the rows of the global batch ([`Rows`]) are accumulated, and reduced once per step.

use crate::comm::{Action, Collective, Op, Pending, Request};
use crate::error::Result;
use crate::ffi;
use crate::ffi::memory::{self, Use};
use crate::nn::layout::{Content, Unit};
use crate::nn::params::part;
use crate::nn::{Params, RowGradient};
use crate::parallel::{Rows, Zero, whole};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// One unit's gradients on this rank.
#[derive(Default)]
struct Part {
    /// `[padded]`, or `[shard]` if gradients are sharded, in the reduction dtype. `None` for frozen weights.
    sum: Option<Tensor>,
    /// `[padded]` in the compute dtype: backward accumulates here unless it does so in `sum`. Exists while its blocks
    /// run.
    own: Option<Tensor>,
    /// `[U, width]` in the reduction dtype: the rows of an embedding matrix in this step.
    rows: Option<Tensor>,
    /// Ids of the rows of `sum` that this step wrote and the next one clears.
    written: Option<Tensor>,
}

/// Collectives under way, and the buffers whose shard is added to the sum.
struct Flight {
    pending: Pending,
    landings: Vec<(usize, Tensor)>,
}

/// The gradients of all units on this rank.
pub struct Gradients {
    comm: Arc<dyn Collective>,
    zero: Zero,
    kind: Kind,
    parts: Vec<Part>,
    rows: Rows,
    flights: Vec<Flight>,
}

impl Gradients {
    /// Creates the gradients for parameters in a layout for the ranks of `comm`; sums and reductions have dtype `kind`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(params: &Params, comm: Arc<dyn Collective>, zero: Zero, kind: Kind) -> Result<Self> {
        let (layout, device) = (params.layout(), params.device());
        let mut parts = Vec::new();
        for (index, unit) in layout.units().iter().enumerate() {
            let size = if zero.shards_gradients() { unit.shard } else { layout.padded(index) };
            let zeros = || memory::during(Use::Gradients, || Tensor::f_zeros([size], (kind, device)));
            let sum = if unit.is_trained() { Some(zeros()?) } else { None };
            parts.push(Part { sum, ..Part::default() });
        }
        let gradients = Gradients { comm, zero, kind, parts, rows: Rows::new(Vec::new()), flights: Vec::new() };
        for (index, part) in gradients.parts.iter().enumerate() {
            if let (Some(sum), true, Content::Dense) =
                (&part.sum, gradients.collects_in_place(params), layout.units()[index].content)
            {
                collect_in(params, index, Some(sum))?;
            }
        }
        Ok(gradients)
    }

    /// Whether backward accumulates directly in the sums.
    fn collects_in_place(&self, params: &Params) -> bool {
        !self.zero.shards_gradients() && self.kind == params.kind()
    }

    /// Starts a step that uses these rows of the embedding matrices: clears the gradients of the previous step.
    pub fn begin(&mut self, params: &Params, rows: Rows) -> Result<()> {
        self.rows = rows;
        for (part, unit) in self.parts.iter_mut().zip(params.layout().units()) {
            let Some(sum) = &mut part.sum else { continue };
            match unit.content {
                Content::Table => {
                    let mut table = sum.view([-1, unit.width]);
                    if let Some(written) = part.written.take() {
                        _ = table.f_index_fill_(0, &written, 0.0)?;
                    }
                    let (size, options) = ([self.rows.len() as i64, unit.width], (self.kind, sum.device()));
                    part.rows = Some(memory::during(Use::Gradients, || Tensor::f_zeros(size, options))?);
                }
                _ => _ = sum.f_zero_()?,
            }
        }
        Ok(())
    }

    /// Allocates the buffers for a block's backward.
    ///
    /// # Errors
    /// Out of memory.
    pub fn before(&mut self, params: &Params, block: usize) -> Result<()> {
        if self.collects_in_place(params) {
            return Ok(());
        }
        for index in params.layout().of_block(block) {
            if params.layout().units()[index].content == Content::Dense && self.parts[index].own.is_none() {
                let (size, options) = ([params.layout().padded(index)], (params.kind(), params.device()));
                let own = memory::during(Use::Gradients, || Tensor::f_zeros(size, options))?;
                collect_in(params, index, Some(&own))?;
                self.parts[index].own = Some(own);
            }
        }
        Ok(())
    }

    /// Adds the gradient of looked-up rows after a block's backward.
    pub fn add_rows(&mut self, params: &Params, found: &RowGradient) -> Result<()> {
        let (unit, _) = params.layout().place(found.table);
        match &mut self.parts[unit].rows {
            Some(rows) => add_rows(rows, &self.rows.positions(&found.ids), &found.grad),
            None => add_rows(&mut params.view(found.table).grad(), &found.ids, &found.grad),
        }
    }

    /// Starts the reductions that are due after a block's backward, in the same order on all ranks. `last` marks the
    /// last micro-batch of the step. A unit of several blocks is complete after the earliest of them.
    ///
    /// # Errors
    /// Those of the collective; out of memory.
    pub fn after(&mut self, params: &Params, block: usize, name: &str, last: bool) -> Result<()> {
        if self.zero.shards_gradients() {
            // At most one block's buffers are being reduced while the next block fills its own.
            self.land()?;
        }
        let units = params.layout().units();
        let complete = |&u: &usize| units[u].is_trained() && units[u].blocks[0] == block;
        let mut jobs = Vec::new();
        for index in params.layout().of_block(block).filter(complete) {
            jobs.extend(self.due(params, index, last)?);
        }
        let what = format!("gradients of {name}");
        let requests: Vec<Request> = jobs.iter().map(|job| job.request(&what)).collect();
        let pending = self.comm.start_group(&requests)?;
        let sharded = self.zero.shards_gradients();
        let landings = jobs.into_iter().filter_map(|job| Some((job.unit, job.shard?))).filter(|_| sharded).collect();
        self.flights.push(Flight { pending, landings });
        Ok(())
    }

    /// Returns the reduction that is due for a unit, if any.
    fn due(&mut self, params: &Params, index: usize, last: bool) -> Result<Option<Job>> {
        let unit = &params.layout().units()[index];
        let held = &mut self.parts[index];
        if unit.content == Content::Table {
            let rows = held.rows.as_ref().filter(|rows| last && rows.numel() > 0);
            let job = |rows: &Tensor| Job {
                unit: index,
                action: Action::AllReduce(Op::Sum),
                buffer: rows.shallow_clone(),
                shard: None,
            };
            return Ok(rows.map(job));
        }
        let Some(sum) = &mut held.sum else { return Ok(None) };
        let buffer = match held.own.take() {
            None => sum.shallow_clone(),
            Some(own) => {
                collect_in(params, index, None)?;
                if self.zero.shards_gradients() {
                    memory::during(Use::Gradients, || own.f_to_kind(self.kind))?
                } else {
                    sum.f_add_(&own)?
                }
            }
        };
        if !last && !self.zero.shards_gradients() {
            return Ok(None);
        }
        let own = self.zero.shards_state().then(|| part(&buffer, &unit.shard_of(self.comm.rank())));
        let action = if own.is_some() { Action::ReduceScatter } else { Action::AllReduce(Op::Sum) };
        Ok(Some(Job { unit: index, action, buffer, shard: own }))
    }

    /// Waits for the collectives under way, and adds the shards that they return.
    fn land(&mut self) -> Result<()> {
        for Flight { pending, landings } in self.flights.drain(..) {
            pending.wait()?;
            for (unit, shard) in landings {
                if let Some(sum) = &mut self.parts[unit].sum {
                    _ = sum.f_add_(&shard)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for all reductions of the step; afterwards [`Gradients::owned`] is the gradient.
    ///
    /// # Errors
    /// Those of the collective: a dead or late rank.
    pub fn finish(&mut self, params: &Params) -> Result<()> {
        self.land()?;
        let (rank, world) = (self.comm.rank(), self.comm.world());
        for (held, unit) in self.parts.iter_mut().zip(params.layout().units()) {
            let (Some(sum), Some(rows)) = (&held.sum, &held.rows) else { continue };
            let owned = unit.rows(&self.zero.owned(unit, rank, world));
            let base = if self.zero.shards_gradients() { owned.start } else { 0 };
            let (range, ids) = self.rows.within(&owned, base);
            let values = rows.narrow(0, range.start, range.end - range.start);
            _ = sum.view([-1, unit.width]).f_index_copy_(0, &ids, &values)?;
            held.written = Some(ids);
        }
        Ok(())
    }

    /// Returns the sum of squares of the gradients in this rank's shards, f64 `[1]` on the device. The square root of
    /// the sum over all ranks is the global L2 gradient norm.
    pub fn squares(&self, params: &Params) -> Result<Tensor> {
        let rank = self.comm.rank();
        let mut squares = Tensor::f_zeros([1], (Kind::Double, params.device()))?;
        for (held, unit) in self.parts.iter().zip(params.layout().units()) {
            let own = unit.shard_of(rank);
            match (&held.rows, &held.sum) {
                (Some(rows), _) => {
                    let (range, _) = self.rows.within(&unit.rows(&own), 0);
                    let rows = rows.narrow(0, range.start, range.end - range.start);
                    add_squares(&mut squares, &rows.f_view(-1)?)?;
                }
                (None, Some(sum)) if self.zero.shards_gradients() => add_squares(&mut squares, sum)?,
                (None, Some(sum)) => add_squares(&mut squares, &part(sum, &own))?,
                (None, None) => {}
            }
        }
        Ok(squares)
    }

    /// Returns the reduced gradient of the part of a unit that this rank updates, laid out like
    /// [`super::Weights::master`].
    pub fn owned(&self, unit: usize, spec: &Unit) -> Option<Tensor> {
        let sum = self.parts[unit].sum.as_ref()?;
        let range = match (self.zero.shards_state(), self.zero.shards_gradients()) {
            (true, false) => spec.shard_of(self.comm.rank()),
            _ => 0..sum.size()[0],
        };
        Some(part(sum, &range))
    }

    /// Returns a unit's whole reduced gradient, `[padded]`. All ranks call it.
    ///
    /// # Errors
    /// A dead or late rank; out of memory.
    pub fn whole(&self, unit: usize, spec: &Unit) -> Result<Option<Tensor>> {
        let gather = |owned: Tensor| whole(self.comm.as_ref(), self.zero, &owned, "gradients");
        self.owned(unit, spec).map(gather).transpose()
    }

    /// Returns the bytes that a rank keeps between steps.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().flat_map(|part| &part.sum).map(|t| (t.numel() * t.kind().elt_size_in_bytes()) as u64).sum()
    }
}

/// A reduction to start.
struct Job {
    unit: usize,
    action: Action,
    buffer: Tensor,
    shard: Option<Tensor>,
}

impl Job {
    fn request<'a>(&'a self, what: &'a str) -> Request<'a> {
        Request { action: self.action, buffer: &self.buffer, shard: self.shard.as_ref(), what }
    }
}

/// Makes backward accumulate the gradients of a unit's parameters in views of `buffer`; without one, detaches them.
fn collect_in(params: &Params, unit: usize, buffer: Option<&Tensor>) -> Result<()> {
    match buffer {
        Some(buffer) => params.members(unit, buffer).try_for_each(|(id, grad)| ffi::set_grad(params.view(id), &grad)),
        None => {
            let members = &params.layout().units()[unit].members;
            members.iter().try_for_each(|&id| ffi::clear_grad(params.view(id)))
        }
    }
}

/// Adds `grad` `[T, width]` to the rows `ids` `[T]` of a matrix. In half precision the additions to a row are summed in
/// fp32 and rounded once: thousands of tokens may look up the same row, and bf16 loses terms below 1/256 of the sum.
fn add_rows(table: &mut Tensor, ids: &Tensor, grad: &Tensor) -> Result<()> {
    if table.kind() == Kind::Float {
        _ = table.f_index_add_(0, ids, &grad.f_to_kind(Kind::Float)?)?;
        return Ok(());
    }
    let (rows, width, n) = (table.size()[0], table.size()[1], grad.size()[0]);
    let options = (Kind::Float, table.device());
    let grad = grad.f_to_kind(Kind::Float)?;
    if rows <= n {
        let sums = Tensor::f_zeros([rows, width], options)?.f_index_add_(0, ids, &grad)?;
        _ = table.f_add_(&sums)?;
        return Ok(());
    }
    // Allocate the maximum number of distinct ids, so that the host need not know the number; unused sums are zero.
    let (sorted, order) = ids.f_sort(0, false)?;
    let begins = sorted.f_diff::<Tensor>(1, 0, None, None)?.f_ne(0)?;
    let indices =
        Tensor::f_cat(&[begins.f_new_zeros([1], (Kind::Int64, table.device()))?, begins.f_cumsum(0, Kind::Int64)?], 0)?;
    // Unused sums go to different rows, because additions to one row are serialized.
    let distinct = Tensor::f_arange(n, (Kind::Int64, table.device()))?.f_index_copy_(0, &indices, &sorted)?;
    let sums = Tensor::f_zeros([n, width], options)?.f_index_add_(0, &indices, &grad.f_index_select(0, &order)?)?;
    _ = table.f_index_add_(0, &distinct, &sums.f_to_kind(table.kind())?)?;
    Ok(())
}

/// Adds the sum of squares of a flat tensor to `total`, f64 `[1]` on its device. Short runs are summed in f32, the runs
/// in f64: the error of one f32 sum over millions of elements would exceed the tolerance between world sizes.
fn add_squares(total: &mut Tensor, x: &Tensor) -> Result<()> {
    const RUN: i64 = 1024;
    /// Half precision is converted in pieces.
    const PIECE: i64 = RUN << 12;
    let n = x.numel() as i64;
    for start in (0..n).step_by(PIECE as usize) {
        let piece = x.f_narrow(0, start, PIECE.min(n - start))?.f_to_kind(Kind::Float)?;
        let n = piece.numel() as i64;
        let whole = n / RUN * RUN;
        let rest = n - whole;
        for (part, run) in [(piece.f_narrow(0, 0, whole)?, RUN), (piece.f_narrow(0, whole, rest)?, rest.max(1))] {
            let norms = part.f_view([-1, run])?.f_norm_scalaropt_dim(2, [1i64].as_slice(), false)?;
            _ = total.f_add_(&norms.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Summed in bf16, 8,192 additions of about 1 end at 256.
    #[test]
    fn many_additions_to_a_row_are_rounded_once() {
        let n = 8192;
        for kind in [Kind::BFloat16, Kind::Half] {
            // Few rows, like position embeddings, and a vocabulary of which the tokens use a part.
            for rows in [10, 50_000] {
                let ids = Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(7).square();
                let ids = if rows == 10 { ids.remainder(10) } else { ids * 1000 + 3 };
                let grad = ((Tensor::arange(n * 3, (Kind::Float, Device::Cpu)).sin() + 0.5) / 16.0).to_kind(kind);
                let grad = grad.view([n, 3]);
                let mut table = Tensor::zeros([rows, 3], (kind, Device::Cpu));
                add_rows(&mut table, &ids, &grad).unwrap();
                let exact = Tensor::zeros([rows, 3], (Kind::Float, Device::Cpu));
                let exact = exact.index_add(0, &ids, &grad.to_kind(Kind::Float)).to_kind(kind);
                let difference = (table.to_kind(Kind::Float) - exact.to_kind(Kind::Float)).abs();
                // The order of the fp32 additions may differ, which affects at most the last bit of the result.
                let last_bit = exact.to_kind(Kind::Float).abs() * if kind == Kind::Half { 1e-3 } else { 8e-3 };
                assert!(difference.le_tensor(&last_bit).all().int64_value(&[]) == 1, "{kind:?}, {rows} rows");
                assert!(difference.count_nonzero(None::<i64>).int64_value(&[]) <= 1, "{kind:?}, {rows} rows");
                assert!(exact.count_nonzero(None::<i64>).int64_value(&[]) >= 9, "{kind:?}: several rows are used");
            }
        }
        // One row: equal to the fp32 sum rounded once, bit for bit.
        let ids = Tensor::full([n], 5, (Kind::Int64, Device::Cpu));
        let grad = Tensor::full([n, 2], 1.0 + 1.0 / 128.0, (Kind::BFloat16, Device::Cpu));
        for rows in [8, 20_000] {
            let mut table = Tensor::zeros([rows, 2], (Kind::BFloat16, Device::Cpu));
            add_rows(&mut table, &ids, &grad).unwrap();
            let exact = Tensor::from(8192.0f32 * (1.0 + 1.0 / 128.0)).to_kind(Kind::BFloat16);
            assert!(table.get(5).eq_tensor(&exact).all().int64_value(&[]) == 1, "{table:?} and {exact:?}");
        }
    }

    #[test]
    fn sums_of_squares_are_those_of_f64() {
        for n in [0, 1, 1023, 1024, 5000, 9_000_000] {
            let x = Tensor::arange(n, (Kind::Float, Device::Cpu)).sin() + 1.0;
            for x in [x.shallow_clone(), x.to_kind(Kind::BFloat16)] {
                let exact = x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
                let mut ours = Tensor::zeros([], (Kind::Double, Device::Cpu));
                add_squares(&mut ours, &x).unwrap();
                let ours = ours.double_value(&[]);
                // An f32 norm has a relative error of at most half of 2^-23, its square twice that; longer sums have
                // less.
                assert!((ours - exact).abs() <= 5e-7 * exact, "{n}: {ours} and {exact}");
            }
        }
    }
}
