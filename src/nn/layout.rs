//! The layout of a model's parameters in flat buffers.
//!
//! A *unit* is one flat buffer. Weights that are used by the same blocks and trained alike share a unit:
//!
//! ```text
//! block 0   [ embedding matrix, row by row ..... | padding ]
//!           [ decayed ....... | not decayed .... | padding ]
//! block 1   [ decayed ....... | not decayed .... | padding ]   [ frozen ... | padding ]
//! ```
//!
//! So a hyper-parameter group is a contiguous range, a collective handles a whole unit, and an optimizer call a whole
//! group. Every unit is padded to equal shards, one per rank. The layout is a pure function of the ordered specs and
//! the world size: ranks compare [`Layout::fingerprint`].

use crate::nn::param_builder::{ParamId, ParamSpec};
use crate::nn::rng;
use std::cmp::Ordering;
use std::ops::Range;

/// Shards are multiples of this number of elements, so that every shard starts on a cache line in any float type.
const ALIGNMENT: i64 = 32;

/// The content of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// An embedding matrix with a row-sparse gradient ([`ParamSpec::row_sparse`]). Its shards are whole rows.
    Table,
    /// Trained weights.
    Dense,
    /// Frozen weights: no gradient, no optimizer state.
    Frozen,
    /// Weights that are kept in int8, outside the buffer.
    Int8,
}

/// How the optimizer updates a weight.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct HyperParams {
    /// Weights without weight decay, biases and norms, are last.
    undecayed: bool,
    weight_decay: Option<f64>,
    /// The factor of the scheduled learning rate.
    pub rate: f64,
}

impl HyperParams {
    pub fn of(spec: &ParamSpec) -> Self {
        HyperParams { undecayed: !spec.decay, weight_decay: spec.weight_decay.filter(|_| spec.decay), rate: spec.rate }
    }

    /// Whether weight decay and penalties apply: not to biases and norms.
    pub fn decays(&self) -> bool {
        !self.undecayed
    }

    /// Returns the weight decay of a run whose weights have `usual`.
    pub fn weight_decay(&self, usual: f64) -> f64 {
        if self.undecayed { 0.0 } else { self.weight_decay.unwrap_or(usual) }
    }
}

/// A contiguous range of a unit with the same hyper-parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub hyper: HyperParams,
    pub range: Range<i64>,
}

/// One flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    pub content: Content,
    /// Number of steps before the first that trains it.
    pub starts: u64,
    /// The blocks that compute with it, ascending: the one that owns it and those that borrow from it.
    pub blocks: Vec<usize>,
    /// Its parameters, in the order of the buffer.
    pub members: Vec<ParamId>,
    pub groups: Vec<Group>,
    /// Number of elements without the padding.
    pub numel: i64,
    /// Number of elements of each rank's shard; the buffer has one shard per rank.
    pub shard: i64,
    /// Number of elements of a row of a [`Content::Table`].
    pub width: i64,
}

impl Unit {
    /// Returns whether the unit is trained.
    pub fn is_trained(&self) -> bool {
        !matches!(self.content, Content::Frozen | Content::Int8)
    }

    pub fn shard_of(&self, rank: usize) -> Range<i64> {
        let start = rank as i64 * self.shard;
        start..start + self.shard
    }

    /// Returns the rows of an embedding matrix in an element range of whole rows.
    pub fn rows(&self, elements: &Range<i64>) -> Range<i64> {
        elements.start / self.width..elements.end / self.width
    }
}

/// The units of a model and the position of each parameter.
#[derive(Debug, Clone)]
pub struct Layout {
    units: Vec<Unit>,
    ranges: Vec<(usize, Range<i64>)>,
    world: usize,
    fingerprint: u64,
}

impl Layout {
    /// Computes the layout of `specs` for `world` ranks.
    pub fn new(specs: &[ParamSpec], world: usize) -> Self {
        let mut order: Vec<usize> = (0..specs.len()).collect();
        let hyper: Vec<HyperParams> = specs.iter().map(HyperParams::of).collect();
        order.sort_by(|&a, &b| {
            let by_hyper = || hyper[a].partial_cmp(&hyper[b]).unwrap_or(Ordering::Equal);
            key(&specs[a], a).cmp(&key(&specs[b], b)).then_with(by_hyper).then(a.cmp(&b))
        });
        let mut units: Vec<Unit> = Vec::new();
        let mut ranges = vec![(0, 0..0); specs.len()];
        let mut last = None;
        for i in order {
            let (spec, key) = (&specs[i], key(&specs[i], i));
            if last.as_ref() != Some(&key) {
                units.push(Unit {
                    content: key.1,
                    starts: key.2,
                    blocks: blocks(spec),
                    members: Vec::new(),
                    groups: Vec::new(),
                    numel: 0,
                    shard: 0,
                    width: spec.shape.iter().skip(1).product(),
                });
                last = Some(key);
            }
            let index = units.len() - 1;
            let unit = &mut units[index];
            let (start, end) = (unit.numel, unit.numel + spec.numel());
            (unit.numel, ranges[i]) = (end, (index, start..end));
            unit.members.push(ParamId(i));
            match unit.groups.last_mut() {
                Some(group) if group.hyper == hyper[i] => group.range.end = end,
                _ => unit.groups.push(Group { hyper: hyper[i], range: start..end }),
            }
        }
        for unit in &mut units {
            let multiple = if unit.content == Content::Table { unit.width } else { ALIGNMENT };
            unit.shard = (unit.numel as u64).div_ceil(world as u64).next_multiple_of(multiple as u64) as i64;
        }
        let text: String = specs
            .iter()
            .zip(&ranges)
            .map(|(s, p)| format!("{} {:?} {:?} {:?} {} {p:?};", s.name, s.shape, key(s, 0), HyperParams::of(s), world))
            .collect();
        Layout { fingerprint: rng::hash_name(&text), units, ranges, world }
    }

    /// The units, in the order of the blocks that own them.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Returns the unit of a parameter, and its range there.
    pub fn place(&self, id: ParamId) -> (usize, Range<i64>) {
        self.ranges[id.0].clone()
    }

    /// Number of blocks that compute with any unit.
    pub fn blocks(&self) -> usize {
        self.units.iter().flat_map(|unit| &unit.blocks).max().map_or(0, |last| last + 1)
    }

    /// Number of shards of each unit.
    pub fn shards(&self) -> usize {
        self.world
    }

    /// Number of elements of a unit's buffer, including the padding.
    pub fn padded(&self, unit: usize) -> i64 {
        self.units[unit].shard * self.world as i64
    }

    /// Returns the units that a block computes with.
    pub fn of_block(&self, block: usize) -> impl Iterator<Item = usize> {
        (0..self.units.len()).filter(move |&u| self.units[u].blocks.contains(&block))
    }

    /// Returns the earliest block with trained weights, where backward ends; the number of blocks if nothing is
    /// trained.
    pub fn first_trained_block(&self) -> usize {
        let trained = self.units.iter().filter(|unit| unit.is_trained());
        trained.filter_map(|unit| unit.blocks.first().copied()).min().unwrap_or_else(|| self.blocks())
    }

    /// A hash of the layout, compared between ranks.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// Parameters with the same key share a unit: owner, content, first step, users; an embedding matrix is alone.
fn key(spec: &ParamSpec, index: usize) -> (usize, Content, u64, Vec<usize>, usize) {
    let content = match (spec.trainable, spec.row_sparse) {
        (false, _) if spec.int8 => Content::Int8,
        (false, _) => Content::Frozen,
        (true, true) => Content::Table,
        (true, false) => Content::Dense,
    };
    (spec.block, content, spec.starts, blocks(spec), if content == Content::Table { index } else { 0 })
}

fn blocks(spec: &ParamSpec) -> Vec<usize> {
    let mut blocks = spec.borrowers.clone();
    blocks.push(spec.block);
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, ParamBuilder};

    /// An embedding matrix, a weight that the head borrows, two layers, one of them frozen, a head.
    fn specs() -> Vec<ParamSpec> {
        let mut b = ParamBuilder::new();
        b.vocabulary("words", 7, 5, Init::Zeros);
        b.vector("bias", 5, Init::Zeros);
        let shared = b.weight("positions", &[3, 5], Init::Zeros);
        b.weight("projection", &[5, 5], Init::Zeros);
        b.block(1, |b| b.weight("layer.0", &[40, 40], Init::Zeros));
        b.block(2, |b| b.weight("layer.1", &[5, 5], Init::Zeros));
        b.block(3, |b| {
            b.borrow(shared);
            b.vector("head", 2, Init::Zeros)
        });
        let mut specs = b.finish();
        specs[4].trainable = false;
        specs
    }

    /// For every world size: each parameter has its own range in one unit, groups cover exactly the elements, shards
    /// are equal, hold everything, and split no row of an embedding matrix.
    #[test]
    fn units_hold_everything_once() {
        let specs = specs();
        for world in 1..=5 {
            let layout = Layout::new(&specs, world);
            for (u, unit) in layout.units().iter().enumerate() {
                let mut end = 0;
                for &id in &unit.members {
                    let (at, range) = layout.place(id);
                    assert_eq!((at, range.start, range.end - range.start), (u, end, specs[id.0].numel()));
                    end = range.end;
                }
                assert_eq!(end, unit.numel);
                let groups: Vec<_> = unit.groups.iter().flat_map(|g| g.range.clone()).collect();
                assert!(groups.into_iter().eq(0..unit.numel));
                assert!(layout.padded(u) >= unit.numel && unit.shard_of(world - 1).end == layout.padded(u));
                match unit.content {
                    Content::Table => assert_eq!(unit.shard % unit.width, 0),
                    _ => assert_eq!(unit.shard % ALIGNMENT, 0),
                }
            }
            let members: usize = layout.units().iter().map(|unit| unit.members.len()).sum();
            assert_eq!(members, specs.len());
        }
    }

    #[test]
    fn who_shares_a_unit() {
        let specs = specs();
        let layout = Layout::new(&specs, 2);
        let names = |u: &Unit| u.members.iter().map(|id| specs[id.0].name.as_str()).collect::<Vec<_>>();
        let seen: Vec<_> = layout.units().iter().map(|u| (names(u), u.content, u.blocks.clone())).collect();
        let wanted = [
            (vec!["words"], Content::Table, vec![0]),
            (vec!["projection", "bias"], Content::Dense, vec![0]),
            (vec!["positions"], Content::Dense, vec![0, 3]),
            (vec!["layer.0"], Content::Frozen, vec![1]),
            (vec!["layer.1"], Content::Dense, vec![2]),
            (vec!["head"], Content::Dense, vec![3]),
        ];
        assert_eq!(seen, wanted);
        assert!(layout.of_block(3).eq([2, 5]));
        assert_eq!(layout.first_trained_block(), 0);
    }

    /// Weights that are trained from different steps on share no unit.
    #[test]
    fn stages_have_units_of_their_own() {
        let mut specs = specs();
        let bias = specs.iter().position(|spec| spec.name == "bias").unwrap();
        let before = Layout::new(&specs, 2);
        specs[bias].starts = 7;
        let layout = Layout::new(&specs, 2);
        let starts = |layout: &Layout| layout.units().iter().map(|unit| unit.starts).collect::<Vec<_>>();
        assert_eq!(starts(&before), [0; 6]);
        assert_eq!(starts(&layout).iter().filter(|&&starts| starts == 7).count(), 1);
        assert_eq!(layout.units().len(), 7);
        assert_ne!(before.fingerprint(), layout.fingerprint());
    }

    #[test]
    fn the_fingerprint_tells_layouts_apart() {
        let specs = specs();
        let mut thawed = specs.clone();
        thawed[4].trainable = true;
        let prints = [Layout::new(&specs, 2), Layout::new(&specs, 3), Layout::new(&thawed, 2)].map(|l| l.fingerprint());
        assert_ne!(prints[0], prints[2]);
        assert_eq!(prints[0], Layout::new(&specs, 2).fingerprint());
    }
}
