//! Writes and reads `optimizer/` of a checkpoint: the optimizer's state, master weights, the moving average.

use crate::checkpoint::TrainerState;
use crate::checkpoint::optimizer::{EMA, MASTERS, State, file_of};
use crate::checkpoint::sharded::{self, TensorFiles};
use crate::checkpoint::tensor_writer::Entry;
use crate::error::{Context, Result};
use crate::nn::{ParamId, Params};
use crate::observe::progress::Phase;
use crate::optim::adafactor::Factor;
use crate::optim::held::Held;
use crate::parallel::whole;
use crate::train::checkpoint_files::{Files, Share, Sink};
use crate::train::step::Stepper;
use std::fs;
use std::path::Path;
use tch::{Kind, Tensor};

/// Returns the number of tensors in `optimizer/`.
pub fn tensors(stepper: &Stepper) -> usize {
    let copies = usize::from(stepper.params.kind() != Kind::Float) + usize::from(stepper.ema.is_some());
    optimizer_entries(stepper).len() + copies * weight_entries(&stepper.params).len()
}

/// The states of a unit, in the order of their file: each kind with the parameters that have it.
fn states(stepper: &Stepper, unit: usize) -> Vec<(State, Vec<ParamId>)> {
    let Stepper { params, optimizer, .. } = stepper;
    let (layout, held) = (params.layout(), optimizer.held(unit));
    let members = |held: &Held| {
        let all = layout.units()[unit].members.iter().copied();
        all.filter(|&id| held.has(&layout.place(id).1)).collect()
    };
    held.iter().map(|held| (State::named(held.name), members(held))).collect()
}

/// Returns the tensors of the optimizer's file, unit by unit: flat states, then those that every rank has in full.
fn optimizer_entries(stepper: &Stepper) -> Vec<Entry> {
    let Stepper { params, optimizer, .. } = stepper;
    let mut entries = Vec::new();
    for (index, unit) in params.layout().units().iter().enumerate() {
        entries.extend(states(stepper, index).iter().flat_map(|(state, members)| state.entries(params, members)));
        entries.extend(optimizer.factors(index).into_iter().map(|factor| {
            let name = State::named(factor.name).of(&params.spec(unit.members[factor.member]).name);
            Entry { name, shape: factor.values.size(), kind: Kind::Float }
        }));
    }
    entries
}

/// Returns the tensors of a file with one f32 value for each trained weight.
fn weight_entries(params: &Params) -> Vec<Entry> {
    let trained = params.layout().units().iter().filter(|unit| unit.is_trained());
    trained.flat_map(|unit| State::WEIGHTS.entries(params, &unit.members)).collect()
}

/// Writes `optimizer/` into a checkpoint folder. All ranks call it.
///
/// # Errors
/// Those of gathering, after which the ranks are out of step. Those of writing stay in the queue.
pub fn write(stepper: &Stepper, share: Share, files: &mut Files) -> Result<()> {
    let Stepper { params, weights, optimizer, .. } = stepper;
    if let Some(to) = files.folder {
        let folder = to.join("optimizer");
        files.queue.push(0, move || fs::create_dir_all(&folder).context(folder.display()));
    }
    let gather = |owned: &Tensor| whole(weights.comm(), weights.zero(), owned, "optimizer state");
    let units = params.layout().units();
    let mut file = Sink::create(&file_of(optimizer.rule().name()), optimizer_entries(stepper), share, files);
    for (index, unit) in units.iter().enumerate() {
        for (held, (state, members)) in optimizer.held(index).iter().zip(states(stepper, index)) {
            if members.is_empty() {
                continue;
            }
            let whole = gather(&held.spread()?)?;
            file.write(files, || state.parts(params, index, &members, &whole));
        }
        let named = |factor: Factor| {
            let name = State::named(factor.name).of(&params.spec(unit.members[factor.member]).name);
            (name, factor.values)
        };
        file.write(files, || optimizer.factors(index).into_iter().map(named).collect());
    }
    file.finish(files);
    let mut copy = |set: &str, of: &dyn Fn(usize) -> Option<Tensor>| -> Result<()> {
        let mut file = Sink::create(set, weight_entries(params), share, files);
        for (index, unit) in units.iter().enumerate() {
            let Some(owned) = of(index) else { continue };
            let whole = gather(&owned)?;
            file.write(files, || State::WEIGHTS.parts(params, index, &unit.members, &whole));
        }
        file.finish(files);
        Ok(())
    };
    if let Some(ema) = &stepper.ema {
        copy(EMA, &|unit| ema.average(unit).map(Tensor::shallow_clone))?;
    }
    if params.kind() != Kind::Float {
        copy(MASTERS, &|unit| weights.master(unit).map(Tensor::shallow_clone))?;
    }
    Ok(())
}

/// Loads the optimizer state of a checkpoint. With `thaws`, weights that were frozen in it may be trained now: their
/// state starts at zero, and the stepper records that. So does the state of weights that no step has trained yet.
///
/// # Errors
/// Exit 2 for a tensor that is missing or has another shape; the message names it.
pub fn read(stepper: &mut Stepper, from: &Path, state: &TrainerState, thaws: bool) -> Result<()> {
    let steps = state.global_step - state.skipped_steps;
    stepper.optimizer.set_steps(steps);
    if stepper.ema.is_some() && sharded::exists(&from.join(EMA)) {
        read_ema(stepper, from, thaws)?;
    }
    let rule = stepper.optimizer.rule();
    let open = || TensorFiles::open(&from.join(file_of(rule.name())));
    let file = (!rule.states().is_empty()).then(open).transpose()?;
    let phase = Phase::of("loading the optimizer state", stepper.params.ids().count() as u64, "tensors");
    for index in 0..stepper.params.layout().units().len() {
        let starts = stepper.params.layout().units()[index].starts;
        if !stepper.params.layout().units()[index].is_trained() || (starts > 0 && starts >= state.global_step) {
            continue;
        }
        let kinds = file.as_ref().map(|file| read_states(stepper, index, file, thaws)).transpose()?;
        let Stepper { params, optimizer, begun, .. } = stepper;
        for (place, &id) in params.layout().units()[index].members.iter().enumerate() {
            let name = &params.spec(id).name;
            let first = kinds.as_ref().and_then(|kinds| kinds[place].first());
            let known = file.as_ref().zip(first).is_none_or(|(file, state)| state.is_in(file, name));
            let began = if known { state.moments_began.get(name).copied().unwrap_or_default() } else { steps };
            optimizer.begin_late(index, params.layout().place(id).1, began);
            begun.loaded(index, name, began);
            phase.advance(1);
        }
    }
    Ok(())
}

/// Reads the states of a unit; returns those of each of its parameters.
fn read_states(stepper: &Stepper, index: usize, file: &TensorFiles, thaws: bool) -> Result<Vec<Vec<State>>> {
    let states = states(stepper, index);
    let Stepper { params, optimizer, .. } = stepper;
    let unit = &params.layout().units()[index];
    let mut kinds: Vec<Vec<State>> = vec![Vec::new(); unit.members.len()];
    for (held, (state, members)) in optimizer.held(index).iter().zip(&states) {
        state.read(file, params, members, &held.targets(), thaws)?;
        for (kinds, id) in kinds.iter_mut().zip(&unit.members) {
            kinds.extend(members.contains(id).then_some(*state));
        }
    }
    for factor in optimizer.factors(index) {
        let state = State::named(factor.name);
        state.read_whole(file, &params.spec(unit.members[factor.member]).name, &factor.values, thaws)?;
        kinds[factor.member].push(state);
    }
    Ok(kinds)
}

/// Loads the moving average of the weights from a checkpoint, which has it.
pub fn read_ema(stepper: &Stepper, from: &Path, thaws: bool) -> Result<()> {
    let Stepper { params, weights, ema, .. } = stepper;
    let file = TensorFiles::open(&from.join(EMA))?;
    for (index, unit) in params.layout().units().iter().enumerate() {
        let Some(average) = ema.as_ref().and_then(|ema| ema.average(index)) else { continue };
        let targets = [(weights.owned(unit), average.shallow_clone())];
        State::WEIGHTS.read(&file, params, &unit.members, &targets, thaws)?;
    }
    Ok(())
}
