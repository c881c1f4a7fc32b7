//! An optimizer with its state for all units. What it updates and its state are flat f32 buffers in the units' layout.

use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::optim::adafactor::{self, Factor, Factors};
use crate::optim::adagrad::{self, AdagradConfig};
use crate::optim::adamw::{self, AdamConfig, Step};
use crate::optim::gradient::{PIECE, Part, narrow, overlap};
use crate::optim::held::Held;
use crate::optim::lion::{self, LionConfig};
use crate::optim::muon::{self, MuonConfig};
use crate::optim::pieces::{self, Piece, UnitShape, UnitUpdate};
use crate::optim::rmsprop::{self, RmsPropConfig};
use crate::optim::sgd::{self, SgdConfig};
use std::ops::Range;
use tch::{Kind, Tensor};

/// The rule by which weights are updated, with its hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    AdamW(AdamConfig),
    /// As AdamW, with weight decay added to the gradient.
    Adam(AdamConfig),
    Sgd(SgdConfig),
    Adagrad(AdagradConfig),
    RmsProp(RmsPropConfig),
    Lion(LionConfig),
    Adafactor,
    /// Muon for the matrices of hidden layers, AdamW for all other weights.
    Muon(MuonConfig, AdamConfig),
}

impl Rule {
    /// Returns the name, as in the configuration and in checkpoints.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::AdamW(_) => "adamw",
            Rule::Adam(_) => "adam",
            Rule::Sgd(_) => "sgd",
            Rule::Adagrad(_) => "adagrad",
            Rule::RmsProp(_) => "rmsprop",
            Rule::Lion(_) => "lion",
            Rule::Adafactor => "adafactor",
            Rule::Muon(..) => "muon",
        }
    }

    /// Returns the names of the states.
    pub fn states(&self) -> Vec<&'static str> {
        match self {
            Rule::Adafactor => vec!["exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"],
            Rule::Muon(..) => [self.of_elements(), vec![muon::MOMENTUM]].concat(),
            _ => self.of_elements(),
        }
    }

    /// Returns the names of the states of elements that the rule updates one by one.
    fn of_elements(&self) -> Vec<&'static str> {
        match self {
            Rule::AdamW(_) | Rule::Adam(_) | Rule::Muon(..) => adamw::STATES.to_vec(),
            Rule::Sgd(config) => {
                if config.momentum > 0.0 {
                    vec![sgd::MOMENTUM]
                } else {
                    Vec::new()
                }
            }
            Rule::Adagrad(_) => vec![adagrad::SUM],
            Rule::RmsProp(config) => config.states(),
            Rule::Lion(_) => vec![lion::EXP_AVG],
            Rule::Adafactor => Vec::new(),
        }
    }

    /// Whether weight decay is added to the gradient, as torch does it for this optimizer, instead of being decoupled.
    pub fn couples_decay(&self) -> bool {
        matches!(self, Rule::Adam(_) | Rule::Sgd(_) | Rule::Adagrad(_) | Rule::RmsProp(_))
    }

    /// Returns the bytes of state of an element, and of an element of a hidden layer's matrix. Adafactor's state, less
    /// than 1 % of the weights, is not included.
    pub fn bytes_of_element(&self) -> [f64; 2] {
        let usual = 4.0 * self.of_elements().len() as f64;
        [usual, if matches!(self, Rule::Muon(..)) { 4.0 } else { usual }]
    }

    /// Returns the bytes of state of tensors.
    pub fn bytes_of(&self, pieces: &[Piece]) -> u64 {
        if *self == Rule::Adafactor {
            return 4 * adafactor::state_elements(pieces) as u64;
        }
        let [usual, hidden] = self.bytes_of_element().map(|bytes| bytes as u64);
        let size = |piece: &Piece| (piece.range.end - piece.range.start) as u64;
        pieces.iter().map(|piece| size(piece) * if piece.hidden { hidden } else { usual }).sum()
    }
}

/// The state of a unit.
#[derive(Debug)]
struct UnitState {
    owned: Range<i64>,
    pieces: Vec<Piece>,
    held: Vec<Held>,
    factors: Option<Factors>,
}

/// The optimizer with its state for all units.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    /// `None` for an untrained unit.
    units: Vec<Option<UnitState>>,
    step: u64,
    /// For each unit, ranges whose state was initialized after this number of steps, if not 0.
    late: Vec<Vec<(Range<i64>, u64)>>,
}

impl Optimizer {
    /// Creates the optimizer with zero state for the units; `None` for an untrained unit.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new<'a>(rule: Rule, units: impl IntoIterator<Item = Option<UnitShape<'a>>>) -> Result<Self> {
        let allocate = |unit: UnitShape<'a>| -> Result<UnitState> {
            let UnitShape { weights, owned, pieces } = unit;
            let everything = std::iter::once(0..i64::MAX).collect();
            let (hidden, others) = match rule {
                Rule::Muon(..) => {
                    let hidden = pieces::ranges(&pieces, |piece| piece.hidden);
                    (hidden, pieces::ranges(&pieces, |piece| !piece.hidden))
                }
                _ => (Vec::new(), everything),
            };
            let mut held = Vec::new();
            for name in rule.of_elements() {
                held.push(Held::new(name, others.clone(), owned.clone(), weights)?);
            }
            if let Rule::Muon(..) = rule {
                held.push(Held::new(muon::MOMENTUM, hidden, owned.clone(), weights)?);
            }
            let factors = (rule == Rule::Adafactor).then(|| Factors::new(&pieces, weights)).transpose()?;
            Ok(UnitState { owned, pieces, held, factors })
        };
        let all = units.into_iter().map(|unit| unit.map(allocate).transpose());
        let units: Vec<_> = memory::during(Use::Optimizer, || all.collect::<Result<_>>())?;
        let late = units.iter().map(|_| Vec::new()).collect();
        Ok(Optimizer { rule, units, step: 0, late })
    }

    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Returns the flat states of a unit.
    pub fn held(&self, unit: usize) -> &[Held] {
        self.units[unit].as_ref().map_or(&[], |unit| &unit.held)
    }

    /// Returns the states of a unit that are not flat: Adafactor's.
    pub fn factors(&self, unit: usize) -> Vec<Factor> {
        let unit = self.units[unit].as_ref();
        unit.and_then(|unit| Some(unit.factors.as_ref()?.each(&unit.pieces))).unwrap_or_default()
    }

    /// Declares that the state of a range of a unit was initialized after `began` steps, for weights that were frozen
    /// before. Bias correction (arXiv 1412.6980, section 3) counts from there.
    pub fn begin_late(&mut self, unit: usize, range: Range<i64>, began: u64) {
        if began > 0 {
            self.late[unit].push((range, began));
            self.late[unit].sort_unstable_by_key(|(range, _)| range.start);
        }
    }

    /// Splits a range of a unit into parts of equal age, each with the steps after which its state was initialized.
    pub fn ages(&self, unit: usize, range: &Range<i64>) -> Vec<(Range<i64>, u64)> {
        let mut parts = Vec::new();
        let mut start = range.start;
        for (late, began) in &self.late[unit] {
            let (from, to) = (late.start.max(start), late.end.min(range.end));
            if from < to {
                parts.extend([(start..from, 0), (from..to, *began)]);
                start = to;
            }
        }
        parts.push((start..range.end, 0));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }

    /// Size of the state in bytes.
    pub fn bytes(&self) -> u64 {
        let of = |unit: &UnitState| {
            unit.held.iter().map(Held::bytes).sum::<u64>() + unit.factors.as_ref().map_or(0, Factors::bytes)
        };
        self.units.iter().flatten().map(of).sum()
    }

    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Sets the number of steps of the loaded state.
    pub fn set_steps(&mut self, step: u64) {
        self.step = step;
    }

    /// Starts the next step and increments the step count.
    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    /// Updates a unit in the current step: the owned elements `weights` `[n]`, f32, by `grads` `[n]` of any float dtype,
    /// divided by `grad_scale` first. `parts` are those of the whole unit. Optimizers of whole matrices exchange values
    /// by `gather`, which returns those of all ranks that share the unit, in their order, given this one's; all these
    /// ranks call this together.
    ///
    /// # Errors
    /// Out of memory; those of `gather`.
    pub fn update(
        &self,
        unit: usize,
        (weights, grads): (&Tensor, &Tensor),
        parts: &[Part],
        grad_scale: f64,
        gather: &dyn Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let Some(UnitState { owned, pieces, held, factors }) = &self.units[unit] else { return Ok(()) };
        let unit = UnitUpdate { pieces, owned, weights, grads, grad_scale };
        if let Some(factors) = factors {
            return adafactor::update(unit, factors, self.step, parts, gather);
        }
        let mut held = held.iter();
        if let (Rule::Muon(config, _), Some(momentum)) = (&self.rule, held.clone().last()) {
            if pieces.iter().any(|piece| piece.hidden) {
                muon::update(config, unit, momentum, parts, gather)?;
            }
            held.next_back();
        }
        let held: Vec<&Held> = held.collect();
        for part in parts {
            let whole = vec![overlap(&part.range, owned)];
            // Elements that Muon has not updated.
            let ranges = held.first().map_or(whole, |state| {
                state.covers.iter().map(|range| overlap(range, &overlap(&part.range, owned))).collect()
            });
            for range in ranges {
                // AdamW's kernel converts and scales nothing.
                let plain = matches!(self.rule, Rule::AdamW(_) | Rule::Muon(..)) && !part.has_penalty();
                let piece = if plain && grads.kind() == Kind::Float { i64::MAX } else { PIECE };
                let mut start = range.start;
                while start < range.end {
                    let piece = start..range.end.min(start.saturating_add(piece));
                    start = piece.end;
                    let mut states: Vec<Tensor> = held.iter().filter_map(|state| state.part(&piece)).collect();
                    let [weights, grads] = [weights, grads].map(|buffer| narrow(buffer, &piece, owned.start));
                    self.update_elements(weights, &grads, &mut states, part, grad_scale)?;
                }
            }
        }
        Ok(())
    }

    fn update_elements(
        &self,
        mut weights: Tensor,
        grads: &Tensor,
        states: &mut [Tensor],
        part: &Part,
        grad_scale: f64,
    ) -> Result<()> {
        let Part { learning_rate, weight_decay, began, .. } = *part;
        let (step, rule) = (Step { learning_rate, weight_decay, number: self.step - began }, &self.rule);
        if let (Rule::AdamW(config) | Rule::Muon(_, config), [exp_avg, exp_avg_sq], false) =
            (rule, &*states, part.has_penalty())
        {
            let grads = grads.f_to_kind(Kind::Float)?;
            return adamw::update(config, &weights, &grads, [exp_avg, exp_avg_sq], &step, grad_scale);
        }
        let coupled = if rule.couples_decay() { weight_decay } else { 0.0 };
        let step = Step { weight_decay: weight_decay - coupled, ..step };
        let part = Part { l2: part.l2 + coupled, ..part.clone() };
        let grads = part.gradient(&weights, grads, grad_scale)?;
        match (rule, states) {
            (Rule::AdamW(config) | Rule::Adam(config) | Rule::Muon(_, config), [exp_avg, exp_avg_sq]) => {
                adamw::update(config, &weights, &grads, [&*exp_avg, &*exp_avg_sq], &step, 1.0)
            }
            (Rule::Sgd(config), states) => sgd::update(config, &mut weights, &grads, states.first_mut(), learning_rate),
            (Rule::Adagrad(config), [sum]) => adagrad::update(config, &mut weights, &grads, sum, &step),
            (Rule::RmsProp(config), states) => rmsprop::update(config, &mut weights, &grads, states, learning_rate),
            (Rule::Lion(config), [average]) => lion::update(config, &mut weights, &grads, average, &step),
            _ => unreachable!("{}: each rule has its states, and Adafactor none of elements", rule.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const ADAM: AdamConfig = AdamConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    fn adamw(config: AdamConfig, weights: &Tensor) -> Optimizer {
        let owned = 0..weights.numel() as i64;
        Optimizer::new(Rule::AdamW(config), [Some(UnitShape { weights, owned, pieces: Vec::new() })]).unwrap()
    }

    fn part(range: Range<i64>, weight_decay: f64, began: u64) -> Part {
        Part { range, learning_rate: 0.01, weight_decay, l1: 0.0, l2: 0.0, began }
    }

    fn alone(own: &Tensor) -> Result<Tensor> {
        Ok(own.shallow_clone())
    }

    /// Compares with Algorithm 2 of the paper on two groups, with and without weight decay, and scaled gradients.
    #[test]
    fn adamw_matches_the_formula() {
        let config = AdamConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-6 };
        let weights = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0]);
        let mut by_hand: Vec<f64> = vec![1.0, -2.0, 0.5, 3.0];
        let (mut m, mut v) = ([0.0f64; 4], [0.0f64; 4]);
        let mut adamw = adamw(config, &weights);
        let (lr, scale) = (0.01, 4.0);
        for step in 1..=5u64 {
            let g: Vec<f32> = (0..4).map(|i| (step as f32 * 0.7 + i as f32).sin()).collect();
            let grads = Tensor::from_slice(&g);
            adamw.begin_step();
            adamw.update(0, (&weights, &grads), &[part(0..2, 0.1, 0), part(2..4, 0.0, 0)], scale, &alone).unwrap();
            for i in 0..4 {
                let g = f64::from(g[i]) / scale;
                let decay = if i < 2 { 0.1 } else { 0.0 };
                m[i] = config.beta1 * m[i] + (1.0 - config.beta1) * g;
                v[i] = config.beta2 * v[i] + (1.0 - config.beta2) * g * g;
                let m_hat = m[i] / (1.0 - config.beta1.powi(step as i32));
                let v_hat = v[i] / (1.0 - config.beta2.powi(step as i32));
                by_hand[i] -= lr * decay * by_hand[i];
                by_hand[i] -= lr * m_hat / (v_hat.sqrt() + config.epsilon);
            }
        }
        let ours: Vec<f32> = Vec::try_from(&weights).unwrap();
        for (ours, hand) in ours.iter().zip(&by_hand) {
            assert!((f64::from(*ours) - hand).abs() < 1e-6, "{ours} and {hand}");
        }
        assert_eq!(adamw.steps(), 5);
    }

    #[test]
    fn ranges_are_split_by_age() {
        let w = Tensor::zeros([20], (Kind::Float, Device::Cpu));
        let mut adamw = adamw(ADAM, &w);
        assert_eq!(adamw.ages(0, &(0..20)), [(0..20, 0)]);
        adamw.begin_late(0, 12..15, 7);
        adamw.begin_late(0, 0..5, 3);
        assert_eq!(adamw.ages(0, &(0..20)), [(0..5, 3), (5..12, 0), (12..15, 7), (15..20, 0)]);
        assert_eq!(adamw.ages(0, &(3..13)), [(3..5, 3), (5..12, 0), (12..13, 7)]);
        assert_eq!(adamw.ages(0, &(15..20)), [(15..20, 0)]);
    }

    /// Weights unfrozen later are updated like weights trained from the start.
    #[test]
    fn a_late_start_equals_an_early_start() {
        let zeros = || Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let grads = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0]);
        let (early, late) = (zeros(), zeros());
        let (mut first, mut second) = (adamw(ADAM, &early), adamw(ADAM, &late));
        second.set_steps(1000);
        for _ in 0..5 {
            for (adamw, weights, began) in [(&mut first, &early, 0), (&mut second, &late, 1000)] {
                adamw.begin_step();
                adamw.update(0, (weights, &grads), &[part(0..4, 0.0, began)], 1.0, &alone).unwrap();
            }
        }
        assert!(early.equal(&late), "{early:?} and {late:?}");
    }
}
