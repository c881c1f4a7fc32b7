//! Writes checkpoints and the final model.
//!
//! All ranks take part: sharded tensors are gathered unit by unit, and rank 0 writes each unit before the next one, so
//! that saving needs no more memory than a step.

use crate::checkpoint::optimizer::{MASTERS, MOMENTS, State};
use crate::checkpoint::tensor_writer::{Entry, Writer};
use crate::checkpoint::tensors::TensorFile;
use crate::checkpoint::{RunDir, TrainerState, export, folder};
use crate::comm::Collective;
use crate::config::MODEL_FILE;
use crate::error::{Context, Result};
use crate::models::hf_names::HfNames;
use crate::nn::params::part;
use crate::observe::progress::Phase;
use crate::parallel::whole;
use crate::train::step::Stepper;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Writes the checkpoints of a run. Only rank 0 has the folder.
pub struct Checkpoints {
    pub dir: Option<RunDir>,
    pub comm: Arc<dyn Collective>,
    pub names: HfNames,
    /// The configuration, which is written into every model folder.
    pub settings: String,
    /// The folder from which tokenizer files are copied.
    pub origin: PathBuf,
    /// The generation_config.json to write instead of the origin's.
    pub generation: Option<Value>,
    pub limit: Option<usize>,
    /// Whether to keep the best checkpoint beyond the limit, because it becomes the final model.
    pub keeps_best: bool,
}

/// A file that rank 0 writes while all ranks gather. It holds an error back until all units are gathered.
struct Sink<'a>(Result<Option<Writer>>, &'a Phase);

impl<'a> Sink<'a> {
    fn create(path: Option<PathBuf>, entries: Vec<Entry>, phase: &'a Phase) -> Self {
        Sink(path.map(|path| Writer::create(&path, entries)).transpose(), phase)
    }

    fn write(&mut self, tensors: impl FnOnce() -> Vec<(String, Tensor)>) {
        if let Ok(Some(writer)) = &mut self.0
            && let Err(e) = tensors().iter().try_for_each(|(name, tensor)| {
                self.1.advance(1);
                writer.write(name, tensor)
            })
        {
            self.0 = Err(e);
        }
    }

    fn finish(self) -> Result<()> {
        self.0?.map_or(Ok(()), Writer::finish)
    }
}

fn saving(folder: &str, tensors: usize) -> Phase {
    Phase::of(format!("saving {folder}"), tensors as u64, "tensors")
}

impl Checkpoints {
    /// Writes the checkpoint of a step on rank 0. All ranks call it and get the same result.
    ///
    /// # Errors
    /// The system's error on rank 0, such as a full disk. Earlier checkpoints are unchanged.
    pub fn save(&self, stepper: &mut Stepper, state: &TrainerState) -> Result<()> {
        stepper.weights.settle()?;
        let stepper = &*stepper;
        let fill = |to: Option<&Path>| -> Result<()> {
            let Stepper { params, .. } = stepper;
            let states = if params.kind() == Kind::Float { State::MOMENTS.len() } else { State::MOMENTS.len() + 1 };
            let of_each = State::entries(params, &[State::ExpAvg]).len();
            let tensors = export::entries(params, &self.names).len() + states * of_each;
            let phase = saving(&format!("checkpoint-{}", state.global_step), tensors);
            let weights = self.write_model(stepper, to, &phase)?;
            let optimizer = write_optimizer(stepper, to, &phase)?;
            weights.and(optimizer)?;
            to.map_or(Ok(()), |to| state.write(to))
        };
        let result = self.replace(|dir| dir.checkpoint(state.global_step), true, fill).map_err(|e| {
            let step = state.global_step;
            e.context(format!(
                "checkpoint of step {step} not written (earlier ones are kept: continue with --resume auto)"
            ))
        });
        self.comm.agree(result, "saving a checkpoint")?;
        let best = state.best_global_step.filter(|_| self.keeps_best);
        let rotated = self.dir.as_ref().zip(self.limit).map(|(dir, limit)| dir.rotate(limit, best));
        if let Some(Err(e)) = rotated {
            tracing::warn!("an old checkpoint was not removed: {e}");
        }
        Ok(())
    }

    /// Writes `final/`: the current model, or that of the checkpoint `best`.
    ///
    /// # Errors
    /// As [`Checkpoints::save`].
    pub fn finish(&self, stepper: &mut Stepper, best: Option<u64>) -> Result<()> {
        stepper.weights.settle()?;
        let stepper = &*stepper;
        let result = match best {
            None => self.replace(RunDir::finished, false, |to| {
                let phase = saving("final", export::entries(&stepper.params, &self.names).len());
                self.write_model(stepper, to, &phase)?
            }),
            Some(step) => self.dir.as_ref().map_or(Ok(()), |dir| copy_model(&dir.checkpoint(step), &dir.finished())),
        };
        self.comm.agree(result.map_err(|e| e.context("final model not written")), "saving the final model")
    }

    /// Writes a folder on rank 0. Every rank runs `fill` exactly once, because its collectives need all ranks.
    fn replace(
        &self,
        target: impl FnOnce(&RunDir) -> PathBuf,
        mark: bool,
        fill: impl Fn(Option<&Path>) -> Result<()>,
    ) -> Result<()> {
        let Some(dir) = &self.dir else { return fill(None) };
        let mut filled = false;
        let result = folder::replace(&target(dir), mark, |to| {
            filled = true;
            fill(Some(to))
        });
        if filled { result } else { fill(None).and(result) }
    }

    /// The outer error comes from gathering, after which the ranks are out of step. The inner one comes from writing a
    /// file, and is returned after all units are gathered.
    fn write_model(&self, stepper: &Stepper, to: Option<&Path>, phase: &Phase) -> Result<Result<()>> {
        let Stepper { model, params, weights, .. } = stepper;
        let files = to.map_or(Ok(()), |to| {
            export::write_files(to, &model.config_json(params.kind()), &self.origin)?;
            if let Some(generation) = &self.generation {
                folder::write_file(&to.join(export::GENERATION_FILE), &serde_json::to_vec_pretty(generation)?)?;
            }
            folder::write_file(&to.join(MODEL_FILE), self.settings.as_bytes())
        });
        let path = to.map(|to| to.join("model.safetensors"));
        let mut file = Sink::create(path, export::entries(params, &self.names), phase);
        for unit in 0..params.layout().units().len() {
            let whole = weights.whole(params, unit)?;
            file.write(|| export::parts(params, &self.names, unit, &whole));
        }
        Ok(files.and(file.finish()))
    }
}

/// Writes `optimizer/` into a checkpoint folder; errors as in [`Checkpoints::write_model`].
fn write_optimizer(stepper: &Stepper, to: Option<&Path>, phase: &Phase) -> Result<Result<()>> {
    let Stepper { params, weights, optimizer, .. } = stepper;
    let made = to.map_or(Ok(()), |to| {
        let folder = to.join("optimizer");
        fs::create_dir_all(&folder).context(folder.display())
    });
    let gather = |owned: &Tensor| whole(weights.comm(), weights.zero(), owned, "optimizer state");
    let mut moments = Sink::create(to.map(|to| to.join(MOMENTS)), State::entries(params, &State::MOMENTS), phase);
    for unit in 0..params.layout().units().len() {
        let Some(held) = optimizer.moments(unit) else { continue };
        for (state, owned) in State::MOMENTS.into_iter().zip([&held.exp_avg, &held.exp_avg_sq]) {
            let whole = gather(owned)?;
            moments.write(|| state.parts(params, unit, &whole));
        }
    }
    let mut result = made.and(moments.finish());
    if params.kind() != Kind::Float {
        let mut masters = Sink::create(to.map(|to| to.join(MASTERS)), State::entries(params, &[State::Master]), phase);
        for unit in 0..params.layout().units().len() {
            let Some(master) = weights.master(unit) else { continue };
            let whole = gather(master)?;
            masters.write(|| State::Master.parts(params, unit, &whole));
        }
        result = result.and(masters.finish());
    }
    Ok(result)
}

fn copy_model(from: &Path, target: &Path) -> Result<()> {
    folder::replace(target, false, |to| {
        TensorFile::open(&from.join("model.safetensors"))?;
        let files = export::CARRIED.iter().chain(&["config.json", "model.safetensors", MODEL_FILE]);
        files
            .map(|name| (from.join(name), to.join(name)))
            .filter(|(from, _)| from.exists())
            .try_for_each(|(from, to)| folder::copy_file(&from, &to))
    })
}

/// Loads the optimizer state of a checkpoint. With `thaws`, weights that were frozen in it may be trained now: their
/// state starts at zero, and `state` records that.
///
/// # Errors
/// Exit 2 for a tensor that is missing or has another shape; the message names it.
pub fn read_optimizer(stepper: &mut Stepper, from: &Path, state: &mut TrainerState, thaws: bool) -> Result<()> {
    let Stepper { params, weights, optimizer, .. } = stepper;
    let steps = state.global_step - state.skipped_steps;
    let file = TensorFile::open(&from.join(MOMENTS))?;
    let phase = Phase::of("loading the optimizer state", params.ids().count() as u64, "tensors");
    for (index, unit) in params.layout().units().iter().enumerate() {
        let Some(held) = optimizer.moments(index) else { continue };
        let owned = weights.owned(unit);
        for (kind, target) in State::MOMENTS.into_iter().zip([&held.exp_avg, &held.exp_avg_sq]) {
            let whole = kind.read(&file, params, index, thaws)?;
            target.shallow_clone().f_copy_(&part(&whole, &owned))?;
        }
        phase.advance(unit.members.len() as u64);
        for &id in &unit.members {
            let name = &params.spec(id).name;
            if !State::ExpAvg.is_in(&file, name) {
                state.moments_began.insert(name.clone(), steps);
            }
            let began = state.moments_began.get(name).copied().unwrap_or_default();
            optimizer.begin_late(index, params.layout().place(id).1, began);
        }
    }
    optimizer.set_steps(steps);
    Ok(())
}
