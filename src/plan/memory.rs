//! Estimates the memory of a rank's tensors in each phase of a step.
//!
//! Persistent memory follows exactly from the layout (arXiv 1910.02054, section 5). Temporary memory is computed at its
//! maximum in each phase: each block's forward, each block's backward, evaluation, and saving a checkpoint. The order
//! of allocations is that of `train::blockwise`, `parallel::Gradients` and `parallel::Weights`.

use crate::nn::layout::Content;
use crate::nn::{ComputeMode, Cost, Layout};
use crate::parallel::Zero;
use crate::plan::load::{Load, Teaching};
use crate::tasks::Model;
use tch::Kind;

/// The kinds of memory, as measured in a run (`ffi::memory::Use`).
pub const KINDS: [&str; 5] = ["weights", "gradients", "optimizer", "activations", "communication"];
const WEIGHTS: usize = 0;
const GRADIENTS: usize = 1;
const OPTIMIZER: usize = 2;
/// Index of activations in [`KINDS`].
pub const ACTIVATIONS: usize = 3;
const COMMUNICATION: usize = 4;

/// Number of steps whose batches exist at a time: prefetched, in use, and being prepared.
const BATCHES: f64 = 5.0;
/// Number of elements of half-precision gradients that are converted to fp32 at a time for the optimizer and the norm.
const PIECE: f64 = (1u64 << 22) as f64;

/// The dtypes of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Types {
    pub compute: Kind,
    pub reduce: Kind,
}

/// The settings that determine a rank's memory, besides the layout.
#[derive(Debug, Clone)]
pub struct Setup {
    pub types: Types,
    pub zero: Zero,
    /// Whether a rank computes on a CPU.
    pub cpu: bool,
    /// As in [`ComputeMode`].
    pub noise: bool,
    pub frozen_vocabulary: bool,
    /// For each block, whether it keeps its activations (no activation checkpointing).
    pub keeps: Vec<bool>,
    /// Whether checkpoints are saved.
    pub saves: bool,
    /// Whether optimizer state is in host memory.
    pub offloads: bool,
    pub optimizer: OptimizerBytes,
}

/// Bytes that an optimizer needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerBytes {
    /// State of an element.
    pub element: f64,
    /// State of an element with weight decay in a block between the first and the last.
    pub hidden: f64,
    /// Temporary bytes per element of the unit that is updated: of at most 4 Mi elements, of those that a rank
    /// updates, and of all that are gathered.
    pub temporary: [f64; 3],
}

impl OptimizerBytes {
    /// AdamW: two moments; its kernel needs no temporary memory.
    pub const ADAMW: OptimizerBytes = OptimizerBytes { element: 8.0, hidden: 8.0, temporary: [0.0; 3] };
}

/// Estimated memory of one rank, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MemoryEstimate {
    /// Persistent weights, gradients and optimizer state.
    pub kept: [f64; 3],
    /// Peak of each kind in [`KINDS`]; the peaks occur at different times.
    pub peak: [f64; 5],
    /// Peak of the total of all kinds.
    pub total: f64,
    /// Peak of the total without evaluation and saving.
    pub step: f64,
    /// Phase of the peak of the total.
    pub at: Phase,
    /// Host memory for optimizer state and its copies, if they are not on the device.
    pub host: f64,
}

/// A phase of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Update,
    /// The forward pass of the teacher.
    Teacher,
    Forward(usize),
    Backward(usize),
    Evaluation,
    Saving,
}

impl Setup {
    /// Returns the mode in which layers compute.
    pub fn how(&self) -> ComputeMode {
        let Setup { noise, frozen_vocabulary, .. } = *self;
        ComputeMode { noise, frozen_vocabulary, ..ComputeMode::training(self.types.compute, self.cpu) }
    }

    /// Whether optimizer state is apart from the device's memory; on a CPU it never is.
    fn is_offloaded(&self) -> bool {
        self.offloads && !self.cpu
    }

    /// Bytes of a unit's optimizer state and, unless the weights are these, fp32 master weights, for one shard or all.
    fn state(&self, layout: &Layout, index: usize) -> f64 {
        let unit = &layout.units()[index];
        let elements = if self.zero.shards_state() { unit.shard } else { layout.padded(index) } as f64;
        let between = unit.blocks[0] > 0 && unit.blocks[0] + 1 < layout.blocks() && unit.content == Content::Dense;
        let decayed: i64 = unit
            .groups
            .iter()
            .filter(|group| group.hyper.decays())
            .map(|group| group.range.end - group.range.start)
            .sum();
        let hidden = if between && unit.numel > 0 { decayed as f64 / unit.numel as f64 } else { 0.0 };
        let OptimizerBytes { element, hidden: of_hidden, .. } = self.optimizer;
        let masters = if self.types.compute == Kind::Float && !self.is_offloaded() { 0.0 } else { 4.0 };
        elements * (element * (1.0 - hidden) + of_hidden * hidden + masters)
    }

    /// Returns the bytes of host memory that a rank needs for optimizer state ([`crate::parallel::Offload`]): the state,
    /// and for gradients and weights two buffers of the largest unit each.
    pub fn host(&self, layout: &Layout) -> f64 {
        if !self.is_offloaded() {
            return 0.0;
        }
        let owned = |index: usize| {
            let unit = &layout.units()[index];
            let elements = if self.zero.shards_state() { unit.shard } else { layout.padded(index) };
            if unit.is_trained() { elements as f64 } else { 0.0 }
        };
        let units = || (0..layout.units().len()).map(owned);
        let copied = (self.types.reduce.elt_size_in_bytes() + self.types.compute.elt_size_in_bytes()) as f64;
        let trained = (0..layout.units().len()).filter(|&index| layout.units()[index].is_trained());
        trained.map(|index| self.state(layout, index)).sum::<f64>() + 2.0 * copied * units().fold(0.0, f64::max)
    }
}

/// Estimates the memory of a rank for a model with this layout under this load.
pub fn estimate(model: &Model, layout: &Layout, setup: &Setup, load: &Load) -> MemoryEstimate {
    let timeline = Timeline::new(model, layout, setup, load);
    let kept = timeline.kept;
    let mut estimate = MemoryEstimate { kept, host: setup.host(layout), ..MemoryEstimate::default() };
    for (at, bytes) in timeline.phases() {
        let total = bytes.iter().sum();
        if !matches!(at, Phase::Evaluation | Phase::Saving) {
            estimate.step = estimate.step.max(total);
        }
        if total > estimate.total {
            (estimate.total, estimate.at) = (total, at);
        }
        for (peak, bytes) in estimate.peak.iter_mut().zip(bytes) {
            *peak = peak.max(bytes);
        }
    }
    estimate
}

/// Peak bytes of a micro-batch's activations.
pub fn activations(costs: &[Cost], boundaries: &[f64], keeps: &[bool], first: usize) -> f64 {
    passes(costs, boundaries, keeps, first).into_iter().map(|(_, bytes)| bytes).fold(0.0, f64::max)
}

/// Bytes of activations in the forward and in the backward of each block.
fn passes(costs: &[Cost], boundaries: &[f64], keeps: &[bool], first: usize) -> Vec<(Phase, f64)> {
    let mut held = 0.0;
    let mut before = Vec::with_capacity(costs.len());
    let mut phases = Vec::new();
    for (block, cost) in costs.iter().enumerate() {
        before.push(held);
        let keeps = keeps[block] && block >= first;
        phases.push((Phase::Forward(block), held + if keeps { cost.forward } else { cost.alone }));
        held += match (keeps, block + 1 >= first) {
            (true, _) => cost.kept,
            (false, true) => boundaries[block],
            (false, false) => 0.0,
        };
    }
    // A checkpointed block rebuilds its graph just before its backward.
    let backward =
        |block: usize| (Phase::Backward(block), before[block] + costs[block].backward.max(costs[block].forward));
    phases.extend((first..costs.len()).rev().map(backward));
    phases
}

/// The memory over time for one combination of settings.
struct Timeline<'a> {
    layout: &'a Layout,
    setup: &'a Setup,
    load: &'a Load,
    costs: Vec<Cost>,
    boundaries: Vec<f64>,
    evaluation: Vec<Cost>,
    kept: [f64; 3],
    /// Bytes per element of weights and of accumulated gradients.
    weight: f64,
    grad: f64,
}

impl<'a> Timeline<'a> {
    fn new(model: &Model, layout: &'a Layout, setup: &'a Setup, load: &'a Load) -> Self {
        let how = setup.how();
        let of = |x, how: ComputeMode| (0..model.blocks()).map(|block| model.cost(block, x, &how)).collect();
        let evaluated = |x| of(x, how.evaluation());
        let boundaries = (0..model.blocks()).map(|block| model.boundary(block, &load.busiest, &how)).collect();
        let size = |kind: Kind| kind.elt_size_in_bytes() as f64;
        let mut timeline = Timeline {
            layout,
            setup,
            load,
            costs: of(&load.busiest, how),
            boundaries,
            evaluation: load.evaluation.as_ref().map(evaluated).unwrap_or_default(),
            kept: [0.0; 3],
            weight: size(setup.types.compute),
            grad: size(setup.types.reduce),
        };
        timeline.kept = timeline.persistent();
        timeline
    }

    /// Weights (the teacher's too), accumulated gradients, optimizer state with fp32 master weights in half precision.
    fn persistent(&self) -> [f64; 3] {
        let zero = self.setup.zero;
        let mut kept = [0.0; 3];
        for (index, unit) in self.layout.units().iter().enumerate() {
            let held = |sharded: bool| if sharded { unit.shard as f64 } else { self.padded(index) };
            kept[WEIGHTS] += self.weight * held(zero.shards_weights());
            if unit.is_trained() {
                kept[GRADIENTS] += self.grad * held(zero.shards_gradients());
                kept[OPTIMIZER] += if self.setup.is_offloaded() { 0.0 } else { self.setup.state(self.layout, index) };
            }
        }
        if let Some(Teaching { elements: [whole, shards], .. }) = self.load.teacher {
            kept[WEIGHTS] += self.weight * if zero.shards_weights() { shards } else { whole };
        }
        kept
    }

    fn padded(&self, unit: usize) -> f64 {
        self.layout.padded(unit) as f64
    }

    fn content(&self, unit: usize) -> Content {
        self.layout.units()[unit].content
    }

    /// Bytes of the gathered weights of blocks if weights are sharded; `tables`: whether to include embedding matrices.
    fn gathered(&self, blocks: &[(usize, bool)]) -> f64 {
        if !self.setup.zero.shards_weights() {
            return 0.0;
        }
        let there = |unit: usize| {
            let uses = |&(block, tables): &(usize, bool)| {
                self.layout.units()[unit].blocks.contains(&block) && (tables || self.content(unit) != Content::Table)
            };
            blocks.iter().any(uses)
        };
        let units = (0..self.layout.units().len()).filter(|&unit| there(unit));
        self.weight * units.map(|unit| self.padded(unit)).sum::<f64>()
    }

    /// Bytes of gradients of the used rows of embedding matrices.
    fn rows(&self) -> f64 {
        let units = self.layout.units().iter().filter(|unit| unit.content == Content::Table);
        units.map(|unit| self.grad * self.load.rows * unit.width as f64).sum()
    }

    /// Bytes of unsharded gradients in addition to the accumulated ones during the backward of a block: the buffers
    /// that backward adds to, from a unit's last block to its first, and those of the following block, still being
    /// reduced.
    fn unreduced(&self, block: usize) -> f64 {
        let (sharded, types) = (self.setup.zero.shards_gradients(), self.setup.types);
        if !sharded && types.compute == types.reduce {
            return 0.0;
        }
        let spans = |unit: usize| {
            let blocks = &self.layout.units()[unit].blocks;
            self.content(unit) == Content::Dense && blocks[0] <= block && blocks.iter().any(|&s| s >= block)
        };
        let ends =
            |unit: usize, at: usize| self.content(unit) == Content::Dense && self.layout.units()[unit].blocks[0] == at;
        let units = || 0..self.layout.units().len();
        let open: f64 = units().filter(|&unit| spans(unit)).map(|unit| self.weight * self.padded(unit)).sum();
        if !sharded {
            return open;
        }
        let sent =
            |at: usize| units().filter(|&unit| ends(unit, at)).map(|unit| self.grad * self.padded(unit)).sum::<f64>();
        // When the block is done, the earlier reduction has completed; its own gradients are converted before theirs.
        let widened = if types.compute == types.reduce { 0.0 } else { sent(block) };
        open + sent(block + 1).max(widened)
    }

    /// Returns all phases with the bytes of each kind.
    fn phases(&self) -> Vec<(Phase, [f64; 5])> {
        let Timeline { layout, setup, load, costs, .. } = self;
        let (first, last) = (layout.first_trained_block(), costs.len() - 1);
        let batches = BATCHES * load.batch_bytes;
        let base = |rows: f64| [self.kept[0], self.kept[1] + rows, self.kept[2], batches, 0.0];
        let step = base(self.rows());
        // A step allocates its rows before those of the previous step are freed.
        let mut all = vec![(Phase::Forward(0), base(2.0 * self.rows()))];
        if let Some(Teaching { gathered, activations, .. }) = load.teacher {
            let mut now = step;
            now[ACTIVATIONS] += activations;
            now[WEIGHTS] += if setup.zero.shards_weights() { self.weight * gathered } else { 0.0 };
            all.push((Phase::Teacher, now));
        }
        for (phase, bytes) in passes(costs, &self.boundaries, &setup.keeps, first) {
            let mut now = step;
            now[ACTIVATIONS] += bytes;
            match phase {
                Phase::Forward(block) => now[WEIGHTS] += self.gathered(&[(block, true), ((block + 1).min(last), true)]),
                Phase::Backward(block) => {
                    // Embedding matrices are present if the block has just run forward, or is checkpointed.
                    let tables = |block: usize| block == last || !setup.keeps[block];
                    let next = block.saturating_sub(1).max(first);
                    now[WEIGHTS] += self.gathered(&[(block, tables(block)), (next, next < block && tables(next))]);
                    now[GRADIENTS] += self.unreduced(block);
                }
                _ => {}
            }
            all.push((phase, now));
        }
        let mut update = step;
        let largest = (0..layout.units().len()).map(|unit| self.padded(unit)).fold(0.0, f64::max);
        if !setup.is_offloaded() {
            let [piece, owned, whole] = setup.optimizer.temporary;
            let shard = if setup.zero.shards_state() { largest / layout.shards() as f64 } else { largest };
            let converted = if self.grad < 4.0 { 4.0 } else { 0.0 };
            update[ACTIVATIONS] += (piece + converted) * shard.min(PIECE) + owned * shard;
            update[COMMUNICATION] += whole * largest;
        }
        all.push((Phase::Update, update));
        for (block, cost) in self.evaluation.iter().enumerate() {
            let mut now = step;
            now[ACTIVATIONS] += cost.alone;
            now[WEIGHTS] += self.gathered(&[(block, true), ((block + 1).min(last), true)]);
            all.push((Phase::Evaluation, now));
        }
        let mut saving = step;
        saving[COMMUNICATION] += self.gathered_for_saving();
        all.push((Phase::Saving, saving));
        all
    }

    /// Bytes of the largest all-gather for saving: weights and, for a checkpoint, optimizer state.
    fn gathered_for_saving(&self) -> f64 {
        let zero = self.setup.zero;
        let of = |unit: usize| {
            let weights = if zero.shards_weights() { self.weight } else { 0.0 };
            let state = self.setup.saves
                && !self.setup.is_offloaded()
                && zero.shards_state()
                && self.layout.units()[unit].is_trained();
            self.padded(unit) * if state { weights.max(4.0) } else { weights }
        };
        (0..self.layout.units().len()).map(of).fold(0.0, f64::max)
    }
}
