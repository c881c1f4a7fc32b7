//! The weights of a rank: gathered for the stage that runs, published after an update.

use crate::comm::{Action, Collective, Pending, Request};
use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::nn::Params;
use crate::nn::layout::{Content, Unit};
use crate::nn::params::part;
use crate::parallel::{Zero, whole};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// What a rank keeps of one unit.
struct Part {
    /// Its shard in the compute type: a part of the whole buffer, or all that there is of it between two uses.
    shard: Tensor,
    /// What the optimizer updates, f32: the weights themselves in fp32, a copy of more digits in half precision.
    master: Option<Tensor>,
}

/// A stage whose units are there, or on their way.
struct Held {
    units: Vec<usize>,
    gather: Option<Pending>,
}

/// The weights of all units on this rank.
pub struct Weights {
    comm: Arc<dyn Collective>,
    zero: Zero,
    parts: Vec<Part>,
    /// The units' updates on their way from the ranks that made them.
    updates: Vec<Option<Pending>>,
    /// By stage.
    held: BTreeMap<usize, Held>,
    /// How many stages hold each unit.
    holders: Vec<usize>,
}

impl Weights {
    /// For parameters that are laid out for the ranks of `comm` (and are empty, where weights are sharded). With
    /// `trains`, what the optimizer updates is kept too.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(params: &Params, comm: Arc<dyn Collective>, zero: Zero, trains: bool) -> Result<Self> {
        let (rank, world, options) = (comm.rank(), comm.world(), (params.kind(), params.device()));
        let one = |(index, unit): (usize, &Unit)| -> Result<Part> {
            let own = unit.shard_of(rank);
            let shard = if zero.shards_weights() {
                memory::during(Use::Weights, || Tensor::f_zeros([unit.shard], options))?
            } else {
                part(params.flat(index), &own)
            };
            let owned = zero.owned(unit, rank, world);
            let master = match (trains && unit.is_trained(), params.kind()) {
                (false, _) => None,
                (true, Kind::Float) if zero.shards_weights() => Some(shard.detach()),
                (true, Kind::Float) => Some(part(params.flat(index), &owned)),
                (true, _) => {
                    let size = [owned.end - owned.start];
                    Some(memory::during(Use::Optimizer, || Tensor::f_zeros(size, (Kind::Float, params.device())))?)
                }
            };
            Ok(Part { shard, master })
        };
        let parts = params.layout().units().iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
        let (holders, updates) = (vec![0; parts.len()], parts.iter().map(|_| None).collect());
        Ok(Weights { comm, zero, parts, updates, held: BTreeMap::new(), holders })
    }

    /// The same memory for a pass whose collectives, `comm`'s, tell nobody anything: no weight changes.
    pub fn dry_run(&self, comm: Arc<dyn Collective>) -> Self {
        let part = |part: &Part| Part {
            shard: part.shard.shallow_clone(),
            master: part.master.as_ref().map(Tensor::shallow_clone),
        };
        let parts: Vec<Part> = self.parts.iter().map(part).collect();
        let (holders, updates) = (vec![0; parts.len()], parts.iter().map(|_| None).collect());
        Weights { comm, zero: self.zero, parts, updates, held: BTreeMap::new(), holders }
    }

    /// Frees what stages hold, wherever a pass was broken off.
    ///
    /// # Errors
    /// libtorch's.
    pub fn release_all(&mut self, params: &Params) -> Result<()> {
        let stages: Vec<usize> = self.held.keys().copied().collect();
        stages.into_iter().try_for_each(|stage| self.release(params, stage))?;
        // A fetch that ran out of memory half way has left units that no stage holds.
        let count = if self.zero.shards_weights() { self.parts.len() } else { 0 };
        (0..count).try_for_each(|unit| memory::resize_storage(params.flat(unit), 0))
    }

    /// What is sharded.
    pub fn zero(&self) -> Zero {
        self.zero
    }

    /// Takes the values of a unit, f32 `[padded]`, of which a rank keeps its part.
    ///
    /// # Errors
    /// libtorch's.
    pub fn set(&mut self, params: &Params, unit: usize, values: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let spec = &params.layout().units()[unit];
        let (rank, world) = (self.comm.rank(), self.comm.world());
        let Part { shard, master } = &mut self.parts[unit];
        if self.zero.shards_weights() {
            shard.f_copy_(&part(values, &spec.shard_of(rank)))?;
        } else {
            params.flat(unit).shallow_clone().f_copy_(values)?;
        }
        if let (Some(master), true) = (master, params.kind() != Kind::Float) {
            master.f_copy_(&part(values, &self.zero.owned(spec, rank, world)))?;
        }
        Ok(())
    }

    /// Starts to gather what a stage computes with; without `tables`, only what its backward needs of it. Every call is
    /// followed by [`Weights::ready`] and [`Weights::release`] of the same stage, on all ranks in the same order.
    ///
    /// # Errors
    /// Those of the collective; out of memory.
    pub fn fetch(&mut self, params: &Params, stage: usize, tables: bool) -> Result<()> {
        if !self.zero.shards_weights() {
            return Ok(());
        }
        let layout = params.layout();
        let is_table = |u: usize| layout.units()[u].content == Content::Table;
        let units: Vec<usize> = layout.of_stage(stage).filter(|&u| tables || !is_table(u)).collect();
        let missing: Vec<usize> = units.iter().copied().filter(|&u| self.holders[u] == 0).collect();
        let what = format!("weights of stage {stage}");
        for &unit in &missing {
            let flat = params.flat(unit);
            let bytes = flat.numel() * flat.kind().elt_size_in_bytes();
            memory::during(Use::Weights, || memory::resize_storage(flat, bytes))?;
        }
        let gather = |&unit: &usize| Request {
            action: Action::AllGather,
            buffer: params.flat(unit),
            shard: Some(&self.parts[unit].shard),
            what: &what,
        };
        let requests: Vec<Request> = missing.iter().map(gather).collect();
        let gather = Some(self.comm.start_group(&requests)?);
        units.iter().for_each(|&unit| self.holders[unit] += 1);
        self.held.insert(stage, Held { units, gather });
        Ok(())
    }

    /// Returns when the weights that were fetched for a stage are there, as the last update left them.
    ///
    /// # Errors
    /// A dead or late rank.
    pub fn ready(&mut self, params: &Params, stage: usize) -> Result<()> {
        for unit in params.layout().of_stage(stage) {
            self.updates[unit].take().map_or(Ok(()), Pending::wait)?;
        }
        let held = self.held.get_mut(&stage);
        held.and_then(|held| held.gather.take()).map_or(Ok(()), Pending::wait)
    }

    /// Returns when all updates are there.
    ///
    /// # Errors
    /// A dead or late rank.
    pub fn settle(&mut self) -> Result<()> {
        self.updates.iter_mut().filter_map(Option::take).try_for_each(Pending::wait)
    }

    /// A stage has run: frees what no other stage holds.
    ///
    /// # Errors
    /// libtorch's.
    pub fn release(&mut self, params: &Params, stage: usize) -> Result<()> {
        let Some(held) = self.held.remove(&stage) else { return Ok(()) };
        for unit in held.units {
            self.holders[unit] -= 1;
            if self.holders[unit] == 0 {
                memory::resize_storage(params.flat(unit), 0)?;
            }
        }
        Ok(())
    }

    /// What the optimizer updates of a trained unit, f32: the whole, or this rank's shard.
    pub fn master(&self, unit: usize) -> Option<&Tensor> {
        self.parts[unit].master.as_ref()
    }

    /// A unit was updated: rounds to the compute type, and starts to tell the others. [`Weights::ready`] waits for it, so
    /// that the first stages of the next step need not wait for the last.
    ///
    /// # Errors
    /// Those of the collective; libtorch's.
    pub fn publish(&mut self, params: &Params, unit: usize, what: &str) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let Part { shard, master } = &mut self.parts[unit];
        if let (Some(master), true) = (master, params.kind() != Kind::Float) {
            let mut rounded = if self.zero.shards_state() { shard.detach() } else { params.flat(unit).detach() };
            rounded.f_copy_(master)?;
        }
        if self.zero.shards_state() && !self.zero.shards_weights() {
            self.updates[unit] = Some(self.comm.start_all_gather(shard, params.flat(unit), what)?);
        }
        Ok(())
    }

    /// All of a unit in the compute type, `[padded]`, once updates are [settled](Weights::settle). All ranks call it.
    ///
    /// # Errors
    /// A dead or late rank; out of memory.
    pub fn whole(&self, params: &Params, unit: usize) -> Result<Tensor> {
        if self.zero.shards_weights() {
            return whole(self.comm.as_ref(), self.zero, &self.parts[unit].shard, "weights");
        }
        Ok(params.flat(unit).shallow_clone())
    }

    /// Bytes that a rank keeps from step to step, and those of them that are masters of half-precision weights.
    pub fn bytes(&self, params: &Params) -> (u64, u64) {
        let size = |t: &Tensor| (t.numel() * t.kind().elt_size_in_bytes()) as u64;
        let masters =
            if params.kind() == Kind::Float { 0 } else { self.parts.iter().flat_map(|p| &p.master).map(size).sum() };
        let whole =
            |u: usize| if self.zero.shards_weights() { size(&self.parts[u].shard) } else { size(params.flat(u)) };
        ((0..self.parts.len()).map(whole).sum(), masters)
    }
}
