//! When the optimizer state of each weight begins: with the first step that trains it.

use crate::nn::Params;
use crate::optim::Optimizer;
use std::collections::BTreeMap;

/// The units whose optimizer state has begun, and the number of updates before the state of weights that were frozen.
#[derive(Debug, Default)]
pub struct Begun {
    /// By unit.
    units: Vec<bool>,
    /// By native name.
    updates: BTreeMap<String, u64>,
}

impl Begun {
    /// The state of weights that are trained from the first step has begun.
    pub fn new(params: &Params) -> Self {
        let units = params.layout().units().iter().map(|unit| unit.starts == 0).collect();
        Begun { units, updates: BTreeMap::new() }
    }

    /// Records that the state of a weight of a unit was loaded, which began after this many updates.
    pub fn loaded(&mut self, unit: usize, name: &str, updates: u64) {
        self.units[unit] = true;
        if updates > 0 {
            self.updates.insert(name.to_owned(), updates);
        }
    }

    /// Begins the state of the units that the current step is the first to train.
    pub fn begin_step(&mut self, params: &Params, optimizer: &mut Optimizer) {
        for (index, unit) in params.layout().units().iter().enumerate() {
            if params.trains(index) && !std::mem::replace(&mut self.units[index], true) {
                for &id in &unit.members {
                    optimizer.begin_late(index, params.layout().place(id).1, optimizer.steps());
                    self.updates.insert(params.spec(id).name.clone(), optimizer.steps());
                }
            }
        }
    }

    /// Returns for each weight that was frozen, or still is, the number of updates before its state, by native name.
    pub fn updates_before(&self, params: &Params, optimizer: &Optimizer) -> BTreeMap<String, u64> {
        let waiting =
            params.layout().units().iter().zip(&self.units).filter(|(unit, begun)| unit.is_trained() && !**begun);
        let names = waiting.flat_map(|(unit, _)| unit.members.iter().map(|&id| params.spec(id).name.clone()));
        let mut all = self.updates.clone();
        all.extend(names.map(|name| (name, optimizer.steps())).filter(|(_, updates)| *updates > 0));
        all
    }
}
