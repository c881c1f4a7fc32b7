//! Estimates the time of a step from computation, communication and their overlap.
//!
//! The simulation has two clocks: one for computation, one for collectives, which run one after another in order of
//! their start. It follows `train::step`, `train::blockwise` and `parallel`: the reduction of a block starts when its
//! backward ends, the weights of the next block are gathered while a block runs, and updated weights while the next
//! unit is updated.

use crate::comm::{Action, Op};
use crate::nn::layout::Content;
use crate::nn::{Cost, Layout};
use crate::plan::device::Speed;
use crate::plan::link::Network;
use crate::plan::memory::Setup;

/// Memory traffic per byte of a block's activations: forward writes and reads them; backward reads them, and writes and
/// reads gradients of about the same size.
const FORWARD_PASSES: f64 = 2.0;
const BACKWARD_PASSES: f64 = 4.0;
/// Memory traffic of the update per parameter: AdamW reads weight, gradient and both moments in fp32 and writes three
/// of them; in addition the gradient is zeroed and its norm computed.
const UPDATE_NUMBERS: f64 = 9.0;
/// Assumptions about a machine with GPUs, for optimizer state in host memory: bytes per second of the memory of all its
/// processors (two with eight channels of DDR5-4800 have 614 GB/s; about half is reached), and of a copy over PCI Express
/// 4.0 in one direction.
const HOST_BANDWIDTH: f64 = 300e9;
const COPY_BANDWIDTH: f64 = 22e9;

/// Duration of one step of one rank, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    pub seconds: f64,
    /// Parts of the total: matmuls of linear layers, matmuls in attention, other (memory-bound) operations, the update,
    /// and exposed communication.
    pub linear: f64,
    pub attention: f64,
    pub passing: f64,
    pub update: f64,
    pub exposed_communication: f64,
    /// Time of all collectives, overlapped or not.
    pub collectives: f64,
    /// Bytes of the collectives' buffers; an all-reduce counts twice.
    pub bytes: f64,
    /// Bytes that a rank sends to other hosts, as counted by [`crate::comm::between_hosts`].
    pub between_hosts: f64,
}

/// The settings of a simulated step.
pub struct Plan<'a> {
    pub layout: &'a Layout,
    pub setup: &'a Setup,
    pub speed: Speed,
    pub network: &'a Network,
    pub ranks: usize,
    /// Rows of embedding matrices used in the step.
    pub rows: f64,
    /// The cost of a teacher's forward pass, for each micro-batch; empty without one. Its all-gathers are not counted.
    pub taught: &'a [Cost],
    /// With gradient caching, the bytes of the embeddings that the ranks exchange.
    pub embeddings: Option<f64>,
}

/// The ranks of a collective.
#[derive(Clone, Copy)]
enum Over {
    All,
    /// Those among which a unit is sharded.
    Shards,
    /// Those of all hosts with the same shard.
    Replicas,
}

#[derive(Default)]
struct Clocks {
    compute: f64,
    comm: f64,
    step: Step,
}

impl Plan<'_> {
    /// Simulates a rank's step from the costs of the blocks for each micro-batch, as many as the busiest rank has.
    pub fn step(&self, micro_batches: &[Vec<Cost>]) -> Step {
        let mut clocks = Clocks::default();
        // Measure the second of two steps, which includes communication left over from the first.
        let mut ends = [0.0; 2];
        for end in &mut ends {
            clocks.step = Step::default();
            self.run(&mut clocks, micro_batches);
            *end = clocks.compute;
        }
        Step { seconds: ends[1] - ends[0], ..clocks.step }
    }

    fn run(&self, clocks: &mut Clocks, micro_batches: &[Vec<Cost>]) {
        // The all-reduce of target counts at the start.
        self.small(clocks);
        if let Some(embeddings) = self.embeddings {
            // As `train::contrast`: a first pass; then numbers of texts, embeddings and their gradients.
            micro_batches.iter().for_each(|costs| self.forward(clocks, costs));
            self.small(clocks);
            let done = self.send(clocks, Action::AllReduce(Op::Sum), 2.0 * embeddings, Over::All);
            self.wait(clocks, done);
        }
        for (index, costs) in micro_batches.iter().enumerate() {
            self.taught.get(index).into_iter().for_each(|cost| self.compute(clocks, cost, 1.0, FORWARD_PASSES));
            if self.embeddings.is_none() || index > 0 {
                self.forward(clocks, costs);
            }
            self.backward(clocks, costs, index + 1 == micro_batches.len());
        }
        self.wait(clocks, clocks.comm);
        // The all-reduce of the gradient norm.
        self.small(clocks);
        self.update(clocks);
    }

    fn forward(&self, clocks: &mut Clocks, costs: &[Cost]) {
        let mut ready = self.gather(clocks, 0, true);
        for (block, cost) in costs.iter().enumerate() {
            self.wait(clocks, ready);
            if block + 1 < costs.len() {
                ready = self.gather(clocks, block + 1, true);
            }
            self.compute(clocks, cost, 1.0, FORWARD_PASSES);
        }
    }

    fn backward(&self, clocks: &mut Clocks, costs: &[Cost], last: bool) {
        let first = self.layout.first_trained_block();
        let mut flight = 0.0;
        // Bytes of the shards of the block before, whose sums are complete then.
        let mut shards = 0.0;
        for block in (first..costs.len()).rev() {
            let again = !self.setup.keeps[block];
            let ready = if block > first { self.gather(clocks, block - 1, !self.setup.keeps[block - 1]) } else { 0.0 };
            if again {
                self.compute(clocks, &costs[block], 1.0, FORWARD_PASSES);
            }
            self.compute(clocks, &costs[block], 2.0, BACKWARD_PASSES);
            if self.setup.zero.shards_gradients() || self.replicas() > 1 {
                self.wait(clocks, flight);
            }
            self.reduce_replicas(clocks, shards);
            (flight, shards) = self.reduce(clocks, block, last);
            self.wait(clocks, ready);
        }
        self.reduce_replicas(clocks, shards);
    }

    /// Starts the all-reduce of shards over the hosts.
    fn reduce_replicas(&self, clocks: &mut Clocks, bytes: f64) {
        if self.replicas() > 1 && bytes > 0.0 {
            self.send(clocks, Action::AllReduce(Op::Sum), bytes, Over::Replicas);
        }
    }

    fn replicas(&self) -> usize {
        self.ranks / self.layout.shards()
    }

    /// Updates each unit and starts the all-gather of its weights.
    fn update(&self, clocks: &mut Clocks) {
        let zero = self.setup.zero;
        for (index, unit) in self.layout.units().iter().enumerate().filter(|(_, unit)| unit.is_trained()) {
            let whole = self.layout.padded(index) as f64;
            let owned = if zero.shards_state() { unit.shard as f64 } else { whole };
            let seconds = self.update_seconds(owned);
            clocks.compute += seconds;
            clocks.step.update += seconds;
            if zero.shards_state() && !zero.shards_weights() {
                self.send(clocks, Action::AllGather, self.weight() * whole, Over::Shards);
            }
        }
        // The blocks of the next step wait for their weights; the last all-gather ends this step.
        self.wait(clocks, clocks.comm);
    }

    /// Returns the seconds to update `owned` parameters. In host memory the copies of other units run meanwhile, so that
    /// the slower of both counts.
    fn update_seconds(&self, owned: f64) -> f64 {
        let types = self.setup.types;
        if !self.setup.offloads || self.setup.cpu {
            return 4.0 * UPDATE_NUMBERS * owned / self.speed.bytes;
        }
        let here = self.ranks.min(self.network.ranks_per_node) as f64;
        let compute = 4.0 * UPDATE_NUMBERS * owned / (HOST_BANDWIDTH / here);
        let copied = types.reduce.elt_size_in_bytes().max(types.compute.elt_size_in_bytes()) as f64 * owned;
        compute.max(copied / COPY_BANDWIDTH)
    }

    /// Starts the all-gather of a block's weights; returns its completion time.
    fn gather(&self, clocks: &mut Clocks, block: usize, tables: bool) -> f64 {
        if !self.setup.zero.shards_weights() {
            return 0.0;
        }
        let units = self.layout.of_block(block).filter(|&u| tables || self.content(u) != Content::Table);
        let bytes = units.map(|u| self.weight() * self.layout.padded(u) as f64).sum();
        self.send(clocks, Action::AllGather, bytes, Over::Shards)
    }

    /// Starts the reductions after a block's backward; returns their completion time, and the bytes of the shards whose
    /// sums are complete with them.
    fn reduce(&self, clocks: &mut Clocks, block: usize, last: bool) -> (f64, f64) {
        let (zero, grad) = (self.setup.zero, self.setup.types.reduce.elt_size_in_bytes() as f64);
        let complete = |&u: &usize| self.layout.units()[u].is_trained() && self.layout.units()[u].blocks[0] == block;
        let (mut done, mut shards) = (clocks.comm, 0.0);
        for unit in self.layout.of_block(block).filter(complete) {
            let (sum, scattered) = (Action::AllReduce(Op::Sum), Action::ReduceScatter);
            let (action, elements, due) = match self.content(unit) {
                Content::Table => (sum, self.rows * self.layout.units()[unit].width as f64, last),
                _ => {
                    let action = if zero.shards_state() { scattered } else { sum };
                    (action, self.layout.padded(unit) as f64, last || zero.shards_gradients())
                }
            };
            let over = if matches!(action, Action::ReduceScatter) { Over::Shards } else { Over::All };
            if due {
                done = self.send(clocks, action, grad * elements, over);
            }
            if last && matches!(over, Over::Shards) {
                shards += grad * self.layout.units()[unit].shard as f64;
            }
        }
        (done, shards)
    }

    /// A small all-reduce that all ranks wait for.
    fn small(&self, clocks: &mut Clocks) {
        let done = self.send(clocks, Action::AllReduce(Op::Sum), 64.0, Over::All);
        self.wait(clocks, done);
    }

    fn send(&self, clocks: &mut Clocks, action: Action, bytes: f64, over: Over) -> f64 {
        let (ranks, per_node) = match over {
            Over::All => (self.ranks, self.network.ranks_per_node),
            Over::Shards => (self.layout.shards(), self.network.ranks_per_node),
            Over::Replicas => (self.replicas(), 1),
        };
        if ranks < 2 {
            return clocks.compute;
        }
        let network = Network { ranks_per_node: per_node, ..*self.network };
        let seconds = if bytes > 0.0 { network.seconds(action, bytes, ranks) } else { 0.0 };
        clocks.step.collectives += seconds;
        let sent = bytes * if matches!(action, Action::AllReduce(_)) { 2.0 } else { 1.0 };
        clocks.step.bytes += sent;
        if ranks > per_node {
            clocks.step.between_hosts += sent * (ranks - 1) as f64 / (ranks * per_node) as f64;
        }
        clocks.comm = clocks.comm.max(clocks.compute) + seconds;
        if !self.network.overlaps {
            self.wait(clocks, clocks.comm);
        }
        clocks.comm
    }

    fn wait(&self, clocks: &mut Clocks, until: f64) {
        clocks.step.exposed_communication += (until - clocks.compute).max(0.0);
        clocks.compute = clocks.compute.max(until);
    }

    fn compute(&self, clocks: &mut Clocks, cost: &Cost, times: f64, passes: f64) {
        let attention = times * cost.attention_flops / self.speed.flops;
        let linear = times * (cost.flops - cost.attention_flops) / self.speed.flops;
        let passing = passes * cost.kept / self.speed.bytes;
        clocks.compute += attention + linear + passing;
        clocks.step.attention += attention;
        clocks.step.linear += linear;
        clocks.step.passing += passing;
    }

    fn content(&self, unit: usize) -> Content {
        self.layout.units()[unit].content
    }

    fn weight(&self) -> f64 {
        self.setup.types.compute.elt_size_in_bytes() as f64
    }
}

/// Bytes of the largest group of collectives: the gradients or the weights of a block.
pub fn largest_group(layout: &Layout, setup: &Setup) -> f64 {
    let weight = setup.types.compute.elt_size_in_bytes() as f64;
    let grad = setup.types.reduce.elt_size_in_bytes() as f64;
    let of = |block: usize, count: &dyn Fn(usize) -> bool| -> f64 {
        layout.of_block(block).filter(|&u| count(u)).map(|u| layout.padded(u) as f64).sum()
    };
    let dense = |u: usize| layout.units()[u].content == Content::Dense;
    let gradients = (0..layout.blocks()).map(|block| grad * of(block, &dense)).fold(0.0, f64::max);
    let (sharded, gathered) = (setup.zero.shards_state(), setup.zero.shards_weights());
    let weights = match (sharded, gathered) {
        (false, _) => 0.0,
        (_, true) => (0..layout.blocks()).map(|block| weight * of(block, &|_| true)).fold(0.0, f64::max),
        (_, false) => (0..layout.units().len()).map(|u| weight * layout.padded(u) as f64).fold(0.0, f64::max),
    };
    gradients.max(weights)
}

#[cfg(test)]
mod tests;
