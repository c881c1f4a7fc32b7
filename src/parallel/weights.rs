//! The weights of a rank: gathered for the running block, published after an update.

use crate::comm::{Action, Collective, Pending, Request};
use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::nn::Params;
use crate::nn::layout::{Content, Unit};
use crate::nn::params::part;
use crate::parallel::{Offload, Zero, whole};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Where the values are that the optimizer updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masters {
    /// Nothing is updated.
    None,
    /// On the device: the weights themselves in fp32, copies in half precision.
    Device,
    /// In host memory, apart from the weights.
    Host,
}

impl From<bool> for Masters {
    /// On the device if the weights are trained.
    fn from(trains: bool) -> Self {
        if trains { Masters::Device } else { Masters::None }
    }
}

/// A rank's part of one unit.
struct Part {
    /// The shard in the compute dtype: a view of the whole buffer, or its own memory if weights are sharded.
    shard: Tensor,
    /// The fp32 values that the optimizer updates: the weights themselves, or masters in half precision or in host memory.
    master: Option<Tensor>,
}

/// A block whose units are gathered or being gathered.
struct Held {
    units: Vec<usize>,
    gather: Option<Pending>,
}

/// The weights of all units on this rank.
pub struct Weights {
    comm: Arc<dyn Collective>,
    zero: Zero,
    parts: Vec<Part>,
    masters: Masters,
    /// All-gathers of updated units that are under way.
    updates: Vec<Option<Pending>>,
    /// By block.
    held: BTreeMap<usize, Held>,
    /// Number of blocks that hold each unit.
    holders: Vec<usize>,
}

impl Weights {
    /// Creates the weights of parameters in a layout for the ranks of `comm` (without memory if weights are sharded).
    /// Also allocates the values that the optimizer updates.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(params: &Params, comm: Arc<dyn Collective>, zero: Zero, masters: impl Into<Masters>) -> Result<Self> {
        let masters = masters.into();
        let (rank, world, options) = (comm.rank(), comm.world(), (params.kind(), params.device()));
        let one = |(index, unit): (usize, &Unit)| -> Result<Part> {
            let own = unit.shard_of(rank);
            let shard = if zero.shards_weights() {
                memory::during(Use::Weights, || Tensor::f_zeros([unit.shard], options))?
            } else {
                part(params.flat(index), &own)
            };
            let owned = zero.owned(unit, rank, world);
            let separate = |device| {
                let size = [owned.end - owned.start];
                memory::during(Use::Optimizer, || Tensor::f_zeros(size, (Kind::Float, device)))
            };
            let master = match (masters, params.kind()) {
                _ if !unit.is_trained() => None,
                (Masters::None, _) => None,
                (Masters::Host, _) => Some(separate(Device::Cpu)?),
                (Masters::Device, Kind::Float) if zero.shards_weights() => Some(shard.detach()),
                (Masters::Device, Kind::Float) => Some(part(params.flat(index), &owned)),
                (Masters::Device, _) => Some(separate(params.device())?),
            };
            Ok(Part { shard, master })
        };
        let parts = params.layout().units().iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
        let (holders, updates) = (vec![0; parts.len()], parts.iter().map(|_| None).collect());
        Ok(Weights { comm, zero, parts, masters, updates, held: BTreeMap::new(), holders })
    }

    /// Shares the memory for a dry run with the collectives of `comm`, which do not communicate. No weight changes.
    pub fn dry_run(&self, comm: Arc<dyn Collective>) -> Self {
        let part = |part: &Part| Part {
            shard: part.shard.shallow_clone(),
            master: part.master.as_ref().map(Tensor::shallow_clone),
        };
        let parts: Vec<Part> = self.parts.iter().map(part).collect();
        let (holders, updates) = (vec![0; parts.len()], parts.iter().map(|_| None).collect());
        Weights { comm, zero: self.zero, parts, masters: self.masters, updates, held: BTreeMap::new(), holders }
    }

    /// Releases all blocks after a pass that failed.
    pub fn release_all(&mut self, params: &Params) -> Result<()> {
        let blocks: Vec<usize> = self.held.keys().copied().collect();
        blocks.into_iter().try_for_each(|block| self.release(params, block))?;
        // A fetch that ran out of memory may have left units that no block holds.
        let count = if self.zero.shards_weights() { self.parts.len() } else { 0 };
        (0..count).try_for_each(|unit| memory::resize_storage(params.flat(unit), 0))
    }

    pub fn zero(&self) -> Zero {
        self.zero
    }

    /// Returns what this rank keeps of a unit, each buffer with its elements of the unit: weights in the compute dtype,
    /// and in half precision fp32 masters. Loading fills them.
    pub fn targets(&self, params: &Params, unit: usize) -> Vec<(Range<i64>, Tensor)> {
        let spec = &params.layout().units()[unit];
        let (rank, world) = (self.comm.rank(), self.comm.world());
        let Part { shard, master } = &self.parts[unit];
        let weights = match self.zero.shards_weights() {
            true => (spec.shard_of(rank), shard.detach()),
            false => (0..params.layout().padded(unit), params.flat(unit).detach()),
        };
        let master = master.as_ref().filter(|_| self.separate(params));
        let master = master.map(|master| (self.zero.owned(spec, rank, world), master.detach()));
        [Some(weights), master].into_iter().flatten().collect()
    }

    /// The ranks among which the units are sharded.
    pub fn comm(&self) -> &dyn Collective {
        self.comm.as_ref()
    }

    /// Returns the elements of a unit that this rank updates.
    pub fn owned(&self, unit: &Unit) -> Range<i64> {
        self.zero.owned(unit, self.comm.rank(), self.comm.world())
    }

    /// Sets the values of a unit from f32 `[padded]`; the rank keeps its part.
    pub fn set(&mut self, params: &Params, unit: usize, values: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let set = |(range, mut target): (Range<i64>, Tensor)| target.f_copy_(&part(values, &range)).map(|_| ());
        Ok(self.targets(params, unit).into_iter().try_for_each(set)?)
    }

    /// Starts to gather the weights of a block; without `tables`, only those that its backward needs. Call
    /// [`Weights::ready`] and [`Weights::release`] for the same block afterwards, on all ranks in the same order.
    ///
    /// # Errors
    /// Those of the collective; out of memory.
    pub fn fetch(&mut self, params: &Params, block: usize, tables: bool) -> Result<()> {
        if !self.zero.shards_weights() {
            return Ok(());
        }
        let layout = params.layout();
        let is_table = |u: usize| layout.units()[u].content == Content::Table;
        let units: Vec<usize> = layout.of_block(block).filter(|&u| tables || !is_table(u)).collect();
        let missing: Vec<usize> = units.iter().copied().filter(|&u| self.holders[u] == 0).collect();
        let what = format!("weights of block {block}");
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
        self.held.insert(block, Held { units, gather });
        Ok(())
    }

    /// Waits until the fetched weights of a block are complete, including the last update.
    ///
    /// # Errors
    /// A dead or late rank.
    pub fn ready(&mut self, params: &Params, block: usize) -> Result<()> {
        for unit in params.layout().of_block(block) {
            self.updates[unit].take().map_or(Ok(()), Pending::wait)?;
        }
        let held = self.held.get_mut(&block);
        held.and_then(|held| held.gather.take()).map_or(Ok(()), Pending::wait)
    }

    /// Waits until all updates are complete.
    ///
    /// # Errors
    /// A dead or late rank.
    pub fn settle(&mut self) -> Result<()> {
        self.updates.iter_mut().filter_map(Option::take).try_for_each(Pending::wait)
    }

    /// Releases a block after its pass: frees the units that no other block holds.
    pub fn release(&mut self, params: &Params, block: usize) -> Result<()> {
        let Some(held) = self.held.remove(&block) else { return Ok(()) };
        for unit in held.units {
            self.holders[unit] -= 1;
            if self.holders[unit] == 0 {
                memory::resize_storage(params.flat(unit), 0)?;
            }
        }
        Ok(())
    }

    /// Whether the optimizer updates other memory than the weights.
    fn separate(&self, params: &Params) -> bool {
        params.kind() != Kind::Float || self.masters == Masters::Host
    }

    /// Whether the optimizer's memory is in the host's, apart from the weights.
    pub fn is_offloaded(&self) -> bool {
        self.masters == Masters::Host
    }

    /// Returns the fp32 values of a trained unit that the optimizer updates: the whole unit, or this rank's shard.
    pub fn master(&self, unit: usize) -> Option<&Tensor> {
        self.parts[unit].master.as_ref()
    }

    /// Publishes an updated unit: rounds it to the compute dtype and starts to send it to the other ranks.
    /// [`Weights::ready`] waits for it, so that the first blocks of the next step do not wait for the last.
    ///
    /// # Errors
    /// Those of the collective; libtorch's.
    pub fn publish(&mut self, params: &Params, unit: usize, what: &str) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if let (Some(master), true) = (&self.parts[unit].master, self.separate(params)) {
            self.updated(params, unit).f_copy_(master)?;
        }
        self.gather_update(params, unit, what)
    }

    /// The same for an update in host memory.
    ///
    /// # Errors
    /// As [`Weights::publish`].
    pub fn publish_from_host(&mut self, params: &Params, unit: usize, what: &str, offload: &mut Offload) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if let Some(master) = &self.parts[unit].master {
            offload.send(master, &self.updated(params, unit))?;
        }
        self.gather_update(params, unit, what)
    }

    /// Returns the weights that this rank updates, in the compute dtype.
    fn updated(&self, params: &Params, unit: usize) -> Tensor {
        if self.zero.shards_state() { self.parts[unit].shard.detach() } else { params.flat(unit).detach() }
    }

    fn gather_update(&mut self, params: &Params, unit: usize, what: &str) -> Result<()> {
        let shard = &self.parts[unit].shard;
        if self.zero.shards_state() && !self.zero.shards_weights() {
            self.updates[unit] = Some(self.comm.start_all_gather(shard, params.flat(unit), what)?);
        }
        Ok(())
    }

    /// Returns a whole unit in the compute dtype, `[padded]`, after [`Weights::settle`]. All ranks call it.
    ///
    /// # Errors
    /// A dead or late rank; out of memory.
    pub fn whole(&self, params: &Params, unit: usize) -> Result<Tensor> {
        if self.zero.shards_weights() {
            return whole(self.comm.as_ref(), self.zero, &self.parts[unit].shard, "weights");
        }
        Ok(params.flat(unit).shallow_clone())
    }

    /// Returns the bytes that a rank keeps between steps, and those of the masters that are not the weights themselves.
    pub fn bytes(&self, params: &Params) -> (u64, u64) {
        let size = |t: &Tensor| (t.numel() * t.kind().elt_size_in_bytes()) as u64;
        let masters = if self.separate(params) { self.parts.iter().flat_map(|p| &p.master).map(size).sum() } else { 0 };
        let whole =
            |u: usize| if self.zero.shards_weights() { size(&self.parts[u].shard) } else { size(params.flat(u)) };
        ((0..self.parts.len()).map(whole).sum(), masters)
    }
}
