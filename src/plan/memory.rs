//! The bytes of a rank's tensors, moment by moment of a step.
//!
//! What stays from step to step follows from the layout to the byte (arXiv 1910.02054, section 5). What passes is looked
//! at where it is largest: each stage's forward, each stage's backward, the evaluation, the saving of a checkpoint. The
//! order of allocations is that of `train::staged`, `parallel::Gradients` and `parallel::Weights`.

use crate::nn::layout::Content;
use crate::nn::{ComputeMode, Cost, Layout};
use crate::parallel::Zero;
use crate::plan::load::Load;
use crate::tasks::Model;
use tch::Kind;

/// The kinds of bytes, as a run measures them (`ffi::memory::Use`).
pub const KINDS: [&str; 5] = ["weights", "gradients", "optimizer", "activations", "communication"];
const WEIGHTS: usize = 0;
const GRADIENTS: usize = 1;
const OPTIMIZER: usize = 2;
/// Where activations stand among the kinds.
pub const ACTIVATIONS: usize = 3;
const COMMUNICATION: usize = 4;

/// Steps whose batches exist at a time: those made ahead, the one in hand, and the one that is made.
const BATCHES: f64 = 5.0;
/// Half gradients are widened for the optimizer and for the norm in pieces of so many numbers.
const PIECE: f64 = (1u64 << 22) as f64;

/// The types of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Types {
    pub compute: Kind,
    pub reduce: Kind,
}

/// What decides about a rank's memory beside the layout.
#[derive(Debug, Clone)]
pub struct Setup {
    pub types: Types,
    pub zero: Zero,
    /// Whether a rank computes on a CPU.
    pub cpu: bool,
    /// Of each stage whether it keeps its activations.
    pub keeps: Vec<bool>,
    /// Whether checkpoints are saved.
    pub saves: bool,
}

/// Bytes of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Need {
    /// Weights, gradients and optimizer state that stay from step to step.
    pub kept: [f64; 3],
    /// The most of each kind in [`KINDS`]; not all at the same time.
    pub peak: [f64; 5],
    /// The most of all kinds together; and within steps, evaluation and saving left out.
    pub total: f64,
    pub step: f64,
    /// When that is.
    pub at: Moment,
}

/// What a rank does while it holds the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moment {
    #[default]
    Update,
    Forward(usize),
    Backward(usize),
    Evaluation,
    Saving,
}

impl Setup {
    /// How layers compute.
    pub fn how(&self) -> ComputeMode {
        ComputeMode { kind: self.types.compute, cpu: self.cpu, train: true }
    }
}

/// What a rank needs for a model of this layout under this load.
pub fn need(model: &Model, layout: &Layout, setup: &Setup, load: &Load) -> Need {
    let timeline = Timeline::new(model, layout, setup, load);
    let kept = timeline.kept;
    let mut need = Need { kept, ..Need::default() };
    for (at, bytes) in timeline.moments() {
        let total = bytes.iter().sum();
        if !matches!(at, Moment::Evaluation | Moment::Saving) {
            need.step = need.step.max(total);
        }
        if total > need.total {
            (need.total, need.at) = (total, at);
        }
        for (peak, bytes) in need.peak.iter_mut().zip(bytes) {
            *peak = peak.max(bytes);
        }
    }
    need
}

/// The most bytes that a micro-batch's activations take.
pub fn activations(costs: &[Cost], borders: &[f64], keeps: &[bool], first: usize) -> f64 {
    passes(costs, borders, keeps, first).into_iter().map(|(_, bytes)| bytes).fold(0.0, f64::max)
}

/// Activations while each stage runs forward, and while each runs backward.
fn passes(costs: &[Cost], borders: &[f64], keeps: &[bool], first: usize) -> Vec<(Moment, f64)> {
    let mut held = 0.0;
    let mut before = Vec::with_capacity(costs.len());
    let mut moments = Vec::new();
    for (stage, cost) in costs.iter().enumerate() {
        before.push(held);
        let keeps = keeps[stage] && stage >= first;
        moments.push((Moment::Forward(stage), held + if keeps { cost.forward } else { cost.alone }));
        held += match (keeps, stage + 1 >= first) {
            (true, _) => cost.kept,
            (false, true) => borders[stage],
            (false, false) => 0.0,
        };
    }
    // A stage that runs again makes its graph just before its backward.
    let backward =
        |stage: usize| (Moment::Backward(stage), before[stage] + costs[stage].backward.max(costs[stage].forward));
    moments.extend((first..costs.len()).rev().map(backward));
    moments
}

/// One combination, taken apart.
struct Timeline<'a> {
    layout: &'a Layout,
    setup: &'a Setup,
    load: &'a Load,
    costs: Vec<Cost>,
    borders: Vec<f64>,
    evaluation: Vec<Cost>,
    kept: [f64; 3],
    /// Bytes of an element of weights and of sums of gradients.
    weight: f64,
    grad: f64,
}

impl<'a> Timeline<'a> {
    fn new(model: &Model, layout: &'a Layout, setup: &'a Setup, load: &'a Load) -> Self {
        let how = setup.how();
        let of = |x, how: ComputeMode| (0..model.stages()).map(|stage| model.cost(stage, x, &how)).collect();
        let evaluated = |x| of(x, ComputeMode { train: false, ..how });
        let borders = (0..model.stages()).map(|stage| model.boundary(stage, &load.busiest, &how)).collect();
        let size = |kind: Kind| kind.elt_size_in_bytes() as f64;
        let mut timeline = Timeline {
            layout,
            setup,
            load,
            costs: of(&load.busiest, how),
            borders,
            evaluation: load.evaluation.as_ref().map(evaluated).unwrap_or_default(),
            kept: [0.0; 3],
            weight: size(setup.types.compute),
            grad: size(setup.types.reduce),
        };
        timeline.kept = timeline.persistent();
        timeline
    }

    /// Weights, sums of gradients, and AdamW's two moments, with fp32 masters of half weights.
    fn persistent(&self) -> [f64; 3] {
        let zero = self.setup.zero;
        let state = if self.setup.types.compute == Kind::Float { 8.0 } else { 12.0 };
        let mut kept = [0.0; 3];
        for (index, unit) in self.layout.units().iter().enumerate() {
            let held = |sharded: bool| if sharded { unit.shard as f64 } else { self.padded(index) };
            kept[WEIGHTS] += self.weight * held(zero.shards_weights());
            if unit.is_trained() {
                kept[GRADIENTS] += self.grad * held(zero.shards_gradients());
                kept[OPTIMIZER] += state * held(zero.shards_state());
            }
        }
        kept
    }

    fn padded(&self, unit: usize) -> f64 {
        self.layout.padded(unit) as f64
    }

    fn content(&self, unit: usize) -> Content {
        self.layout.units()[unit].content
    }

    /// The whole weights of these stages' units, where weights are sharded; `tables` says of which stages tables are there.
    fn gathered(&self, stages: &[(usize, bool)]) -> f64 {
        if !self.setup.zero.shards_weights() {
            return 0.0;
        }
        let there = |unit: usize| {
            let uses = |&(stage, tables): &(usize, bool)| {
                self.layout.units()[unit].stages.contains(&stage) && (tables || self.content(unit) != Content::Table)
            };
            stages.iter().any(uses)
        };
        let units = (0..self.layout.units().len()).filter(|&unit| there(unit));
        self.weight * units.map(|unit| self.padded(unit)).sum::<f64>()
    }

    /// The looked-up rows of vocabulary tables.
    fn rows(&self) -> f64 {
        let units = self.layout.units().iter().filter(|unit| unit.content == Content::Table);
        units.map(|unit| self.grad * self.load.rows * unit.width as f64).sum()
    }

    /// Whole gradients beside the sums while a stage runs backward: what backward adds to, from a unit's latest stage to
    /// its earliest, and what the stage after has on its way.
    fn fresh(&self, stage: usize) -> f64 {
        let (sharded, types) = (self.setup.zero.shards_gradients(), self.setup.types);
        if !sharded && types.compute == types.reduce {
            return 0.0;
        }
        let spans = |unit: usize| {
            let stages = &self.layout.units()[unit].stages;
            self.content(unit) == Content::Dense && stages[0] <= stage && stages.iter().any(|&s| s >= stage)
        };
        let ends =
            |unit: usize, at: usize| self.content(unit) == Content::Dense && self.layout.units()[unit].stages[0] == at;
        let units = || 0..self.layout.units().len();
        let open: f64 = units().filter(|&unit| spans(unit)).map(|unit| self.weight * self.padded(unit)).sum();
        if !sharded {
            return open;
        }
        let sent =
            |at: usize| units().filter(|&unit| ends(unit, at)).map(|unit| self.grad * self.padded(unit)).sum::<f64>();
        // When the stage has run, what was on its way has landed; its own is widened before it is sent.
        let widened = if types.compute == types.reduce { 0.0 } else { sent(stage) };
        open + sent(stage + 1).max(widened)
    }

    /// All moments with the bytes of each kind.
    fn moments(&self) -> Vec<(Moment, [f64; 5])> {
        let Timeline { layout, setup, load, costs, .. } = self;
        let (first, last) = (layout.first_trained_stage(), costs.len() - 1);
        let batches = BATCHES * load.batch_bytes;
        let base = |rows: f64| [self.kept[0], self.kept[1] + rows, self.kept[2], batches, 0.0];
        let step = base(self.rows());
        // A step makes room for its rows before it lets go of those of the step before.
        let mut all = vec![(Moment::Forward(0), base(2.0 * self.rows()))];
        for (moment, bytes) in passes(costs, &self.borders, &setup.keeps, first) {
            let mut now = step;
            now[ACTIVATIONS] += bytes;
            match moment {
                Moment::Forward(stage) => {
                    now[WEIGHTS] += self.gathered(&[(stage, true), ((stage + 1).min(last), true)])
                }
                Moment::Backward(stage) => {
                    // Tables are there where the stage ran just now, or runs again.
                    let tables = |stage: usize| stage == last || !setup.keeps[stage];
                    let next = stage.saturating_sub(1).max(first);
                    now[WEIGHTS] += self.gathered(&[(stage, tables(stage)), (next, next < stage && tables(next))]);
                    now[GRADIENTS] += self.fresh(stage);
                }
                _ => {}
            }
            all.push((moment, now));
        }
        let mut update = step;
        let largest = (0..layout.units().len()).map(|unit| self.padded(unit)).fold(0.0, f64::max);
        update[ACTIVATIONS] += if self.grad < 4.0 { 4.0 * largest.min(PIECE) } else { 0.0 };
        all.push((Moment::Update, update));
        for (stage, cost) in self.evaluation.iter().enumerate() {
            let mut now = step;
            now[ACTIVATIONS] += cost.alone;
            now[WEIGHTS] += self.gathered(&[(stage, true), ((stage + 1).min(last), true)]);
            all.push((Moment::Evaluation, now));
        }
        let mut saving = step;
        saving[COMMUNICATION] += self.gathered_for_saving();
        all.push((Moment::Saving, saving));
        all
    }

    /// The largest whole buffer that is gathered to be written: weights, of a checkpoint optimizer state too.
    fn gathered_for_saving(&self) -> f64 {
        let zero = self.setup.zero;
        let of = |unit: usize| {
            let weights = if zero.shards_weights() { self.weight } else { 0.0 };
            let state = self.setup.saves && zero.shards_state() && self.layout.units()[unit].is_trained();
            self.padded(unit) * if state { weights.max(4.0) } else { weights }
        };
        (0..self.layout.units().len()).map(of).fold(0.0, f64::max)
    }
}
