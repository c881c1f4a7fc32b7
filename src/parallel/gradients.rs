//! The gradients of a step: accumulated block by block, reduced over the ranks, measured.
//!
//! The reduction of a block starts when its backward ends and runs while the earlier blocks compute. If gradients are
//! not sharded, micro-batches accumulate in whole buffers and the last one reduces them. If they are, each micro-batch
//! reduces a buffer that exists only for its block, and a rank adds its shard of the result to its sum.
//! With several sets of shards ([`Groups`]), a shard's sum over all micro-batches is then all-reduced over its replicas,
//! once per step. Of an embedding matrix only the rows of the global batch ([`Rows`]) are accumulated, and reduced once
//! per step.

use crate::comm::{Action, Op, Pending, Request};
use crate::error::Result;
use crate::ffi;
use crate::ffi::memory::{self, Use};
use crate::nn::layout::{Content, Unit};
use crate::nn::params::part;
use crate::nn::{Params, RowGradient};
use crate::parallel::sums::{add_rows, add_squares};
use crate::parallel::{Groups, Rows, Zero, whole};
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

/// Reductions under way.
struct Flight {
    pending: Pending,
    /// Units that are scattered, and the shards to add to their sums, unless the sum itself is scattered.
    landings: Vec<(usize, Option<Tensor>)>,
    /// Whether their sums are complete then.
    last: bool,
}

/// The gradients of all units on this rank.
pub struct Gradients {
    groups: Groups,
    zero: Zero,
    kind: Kind,
    parts: Vec<Part>,
    rows: Rows,
    flights: Vec<Flight>,
    /// All-reduces over replicas under way.
    across: Vec<Pending>,
}

impl Gradients {
    /// Creates the gradients for parameters in a layout for the ranks of the shard group; sums and reductions have
    /// dtype `kind`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(params: &Params, groups: impl Into<Groups>, zero: Zero, kind: Kind) -> Result<Self> {
        let (layout, device) = (params.layout(), params.device());
        let mut parts = Vec::new();
        for (index, unit) in layout.units().iter().enumerate() {
            let size = if zero.shards_gradients() { unit.shard } else { layout.padded(index) };
            let zeros = || memory::during(Use::Gradients, || Tensor::f_zeros([size], (kind, device)));
            let sum = if unit.is_trained() { Some(zeros()?) } else { None };
            parts.push(Part { sum, ..Part::default() });
        }
        let (groups, rows) = (groups.into(), Rows::new(Vec::new()));
        let gradients = Gradients { groups, zero, kind, parts, rows, flights: Vec::new(), across: Vec::new() };
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
        for (index, (part, unit)) in self.parts.iter_mut().zip(params.layout().units()).enumerate() {
            let Some(sum) = part.sum.as_mut().filter(|_| params.trains(index)) else {
                part.rows = None;
                continue;
            };
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
            let is_dense = params.layout().units()[index].content == Content::Dense;
            if is_dense && params.trains(index) && self.parts[index].own.is_none() {
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
        if self.zero.shards_gradients() || self.groups.replicas.is_some() {
            // At most one block's buffers are being reduced while the next block fills its own.
            self.land(params)?;
        }
        let units = params.layout().units();
        let complete = |&u: &usize| params.trains(u) && units[u].blocks[0] == block;
        let mut jobs = Vec::new();
        for index in params.layout().of_block(block).filter(complete) {
            jobs.extend(self.due(params, index, last)?);
        }
        let what = format!("gradients of {name}");
        let requests: Vec<Request> = jobs.iter().map(|job| job.request(&what)).collect();
        let pending = self.groups.start(&requests)?;
        let sharded = self.zero.shards_gradients();
        let landing = |job: Job| job.shard.map(|shard| (job.unit, sharded.then_some(shard)));
        self.flights.push(Flight { pending, landings: jobs.into_iter().filter_map(landing).collect(), last });
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
        let own = self.zero.shards_state().then(|| part(&buffer, &unit.shard_of(self.groups.shard.rank())));
        let action = if own.is_some() { Action::ReduceScatter } else { Action::AllReduce(Op::Sum) };
        Ok(Some(Job { unit: index, action, buffer, shard: own }))
    }

    /// Waits for the reductions under way, adds the shards that they return, and starts to reduce the sums that are
    /// complete over their replicas.
    fn land(&mut self, params: &Params) -> Result<()> {
        for Flight { pending, landings, last } in std::mem::take(&mut self.flights) {
            pending.wait()?;
            for (unit, shard) in &landings {
                if let (Some(sum), Some(shard)) = (&mut self.parts[*unit].sum, shard) {
                    _ = sum.f_add_(shard)?;
                }
            }
            let Some(replicas) = self.groups.replicas.as_ref().filter(|_| last) else { continue };
            let units = params.layout().units();
            let sums: Vec<Tensor> = landings.iter().filter_map(|&(unit, _)| self.owned(unit, &units[unit])).collect();
            let (action, what) = (Action::AllReduce(Op::Sum), "gradients between hosts");
            let request = |buffer| Request { action, buffer, shard: None, what };
            self.across.push(replicas.start_group(&sums.iter().map(request).collect::<Vec<_>>())?);
        }
        Ok(())
    }

    /// Waits for all reductions of the step; afterwards [`Gradients::owned`] is the gradient.
    ///
    /// # Errors
    /// Those of the collective: a dead or late rank.
    pub fn finish(&mut self, params: &Params) -> Result<()> {
        self.land(params)?;
        self.across.drain(..).try_for_each(Pending::wait)?;
        let (rank, world) = (self.groups.shard.rank(), self.groups.shard.world());
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

    /// Returns the sum of squares of the gradients in this rank's shards, f64 `[1]` on the device; of replicas only the
    /// first has it. The square root of the sum over all ranks is the global L2 gradient norm.
    pub fn squares(&self, params: &Params) -> Result<Tensor> {
        let rank = self.groups.shard.rank();
        let mut squares = Tensor::f_zeros([1], (Kind::Double, params.device()))?;
        if !self.groups.is_first_replica() {
            return Ok(squares);
        }
        let units = params.layout().units().iter().enumerate();
        for (held, (_, unit)) in self.parts.iter().zip(units).filter(|(_, (index, _))| params.trains(*index)) {
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
            (true, false) => spec.shard_of(self.groups.shard.rank()),
            _ => 0..sum.size()[0],
        };
        Some(part(sum, &range))
    }

    /// Returns a unit's whole reduced gradient, `[padded]`. All ranks call it.
    ///
    /// # Errors
    /// A dead or late rank; out of memory.
    pub fn whole(&self, unit: usize, spec: &Unit) -> Result<Option<Tensor>> {
        let gather = |owned: Tensor| whole(self.groups.shard.as_ref(), self.zero, &owned, "gradients");
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
