//! Writes checkpoints and the final model.
//!
//! All ranks take part: sharded tensors are gathered unit by unit. Rank 0 writes, or with [`Writers::All`] every rank a
//! part of the tensors. The files of a checkpoint are written on a thread from copies, of which as many wait as memory
//! allows: training goes on once all tensors are copied. A folder gets its name when all of its files are complete.

use crate::checkpoint::adapter::{self, AdapterConfig};
use crate::checkpoint::file_queue::FileQueue;
use crate::checkpoint::folder::Building;
use crate::checkpoint::run_dir::FINAL;
use crate::checkpoint::sharded::{self, TensorFiles};
use crate::checkpoint::weight_files::weights_of;
use crate::checkpoint::{RunDir, TrainerState, export, folder};
use crate::comm::Collective;
use crate::config::{MODEL_FILE, Writers};
use crate::error::{Error, Result};
use crate::machine::host_name;
use crate::models::hf_names::HfNames;
use crate::observe::memory::available_bytes;
use crate::observe::progress::Phase;
use crate::text::tokenizer::Tokenizer;
use crate::train::checkpoint_files::{Files, Share, Sink};
use crate::train::model_card::Facts;
use crate::train::step::Stepper;
use crate::train::{carried, model_card, optimizer_files, shared_folder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// After a failure, the time in which a checkpoint that is being written may still become complete.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes the checkpoints of a run. Only rank 0 has the locked folder.
pub struct Checkpoints {
    pub dir: Option<RunDir>,
    /// The folder's path on this rank.
    pub output_dir: PathBuf,
    pub writers: Writers,
    pub comm: Arc<dyn Collective>,
    pub names: HfNames,
    /// The configuration, which is written into every model folder.
    pub settings: String,
    /// The folder from which tokenizer files are copied.
    pub origin: PathBuf,
    /// Of a model with adapters: the configuration that is written with them.
    pub adapter: Option<AdapterConfig>,
    /// The generation_config.json to write instead of the origin's.
    pub generation: Option<Value>,
    /// Further files of the model's folder, and their contents.
    pub more: Vec<(&'static str, Value)>,
    pub limit: Option<usize>,
    /// Whether to keep the best checkpoint beyond the limit, because it becomes the final model.
    pub keeps_best: bool,
    /// The checkpoint that is being written, until the next one begins.
    pub pending: Option<Pending>,
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct Pending {
    step: u64,
    best: Option<u64>,
    /// This rank's files; none once they are complete.
    queue: Option<FileQueue>,
    /// Why this rank could not write its part.
    failed: Option<Error>,
    /// The folder, on rank 0, until it is in its place.
    building: Option<Building>,
    /// The files of other ranks.
    of_others: Vec<PathBuf>,
    began: Instant,
    pause: Duration,
    background: bool,
}

/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    pub step: u64,
    /// Time for which training stood still.
    pub pause: Duration,
    /// Time from the start to the complete folder.
    pub total: Duration,
    /// Whether training went on meanwhile.
    pub background: bool,
}

impl Saved {
    /// Describes the checkpoint at `path`.
    pub fn text(&self, path: &Path) -> String {
        let [pause, total] = [self.pause, self.total].map(|time| time.as_secs_f64());
        let background =
            if self.background { format!(" (pause {pause:.2} s, written in {total:.2} s)") } else { String::new() };
        format!("saved {}{background}", path.display())
    }

    /// Returns the line of `metrics.jsonl`.
    pub fn line(&self) -> Value {
        let [pause, total] = [self.pause, self.total].map(|time| time.as_secs_f64());
        json!({"event": "checkpoint", "step": self.step, "pause_seconds": pause, "seconds": total})
    }
}

impl Pending {
    fn saved(&self) -> Saved {
        let (total, background) = (self.began.elapsed(), self.background);
        Saved { step: self.step, pause: if background { self.pause } else { total }, total, background }
    }
}

fn saving(folder: &str, tensors: usize) -> Phase {
    Phase::of(format!("saving {folder}"), tensors as u64, "tensors")
}

impl Checkpoints {
    /// Starts the checkpoint of a step, after completing the one before. Unless `waits`, files are written while training
    /// goes on: [`Checkpoints::poll`] tells when they are complete. All ranks call it. Returns the checkpoints that are
    /// complete, on rank 0.
    ///
    /// # Errors
    /// The system's error of a rank that writes, such as a full disk, on all ranks: of this checkpoint if `waits`, else from
    /// [`Checkpoints::settle`]. Earlier checkpoints are unchanged.
    pub fn save(&mut self, stepper: &mut Stepper, state: &TrainerState, waits: bool) -> Result<Vec<Saved>> {
        let mut saved = Vec::from_iter(self.settle()?);
        let began = Instant::now();
        stepper.weights.settle()?;
        let stepper = &*stepper;
        let step = state.global_step;
        let params = &stepper.params;
        let tensors = export::entries(params, &self.names).len() + optimizer_files::tensors(stepper);
        let name = format!("checkpoint-{step}");
        let phase = saving(&name, tensors);
        let (building, folder) = self.create(&name).map_err(|e| not_written(step, e))?;
        let queue = if waits || folder.is_none() { FileQueue::direct() } else { FileQueue::background(self.room())? };
        let mut files = Files { folder: folder.as_deref(), queue, phase, of_others: Vec::new() };
        self.write_model(stepper, &mut files)?;
        optimizer_files::write(stepper, self.share(), &mut files)?;
        let Files { mut queue, of_others, .. } = files;
        if let Some(folder) = folder.filter(|_| self.comm.is_main()) {
            let state = state.clone();
            queue.push(0, move || state.write(&folder));
        }
        queue.close();
        let best = state.best_global_step.filter(|_| self.keeps_best);
        let pause = began.elapsed();
        let (queue, failed, background) = (Some(queue), None, !waits);
        self.pending = Some(Pending { step, best, queue, failed, building, of_others, began, pause, background });
        if waits {
            saved.extend(self.settle()?);
        }
        Ok(saved)
    }

    /// Returns the bytes of copies that may wait to be written on this rank.
    fn room(&self) -> u64 {
        let writers = if self.writers == Writers::All { self.comm.local_world() } else { 1 };
        available_bytes().unwrap_or_default() / 2 / writers as u64
    }

    /// Completes the checkpoint that is being written if all of its files are there. It waits for nothing and talks to no
    /// rank. Returns it on rank 0. An error is kept for [`Checkpoints::settle`].
    pub fn poll(&mut self) -> Option<Saved> {
        let mut pending = self.pending.take()?;
        if let Some(queue) = pending.queue.take_if(|queue| queue.is_finished()) {
            pending.failed = queue.join().err();
        }
        let complete = pending.queue.is_none() && pending.failed.is_none();
        let complete = complete && pending.of_others.iter().all(|file| file.exists());
        let placed = pending.building.take_if(|_| complete).map(|building| building.put(true));
        let saved = matches!(placed, Some(Ok(()))).then(|| pending.saved());
        pending.failed = pending.failed.or(placed.and_then(Result::err));
        saved.iter().for_each(|_| self.rotate(pending.best));
        // Until the ranks have agreed in `settle`.
        self.pending = Some(pending);
        saved
    }

    /// Whether this rank could not write its part of a checkpoint: the ranks must settle.
    pub fn has_failed(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.failed.is_some())
    }

    /// Waits until the checkpoint that is being written is complete. All ranks call it. Returns it on rank 0, unless
    /// [`Checkpoints::poll`] has.
    ///
    /// # Errors
    /// Any rank could not write its files; all ranks get the error.
    pub fn settle(&mut self) -> Result<Option<Saved>> {
        let Some(mut pending) = self.pending.take() else { return Ok(None) };
        let joined = pending.queue.take().map_or(Ok(()), FileQueue::join);
        let written = pending.failed.take().map_or(joined, Err);
        let written = written.map_err(|e| not_written(pending.step, self.here(e)));
        self.comm.agree(written, "writing the files of a checkpoint")?;
        let placed = pending.building.take().map(|building| building.put(true)).transpose();
        let placed = placed.map_err(|e| not_written(pending.step, e));
        let placed = self.comm.agree(placed, "saving a checkpoint")?;
        Ok(placed.map(|()| {
            self.rotate(pending.best);
            pending.saved()
        }))
    }

    /// Adds this rank and its host to an error, except on rank 0.
    fn here(&self, e: Error) -> Error {
        match self.comm.rank() {
            0 => e,
            rank => e.context(format!("rank {rank} on {}", host_name())),
        }
    }

    /// After a failure of this run, completes the checkpoint that rank 0 is writing, for a limited time.
    pub fn rescue(&mut self) -> Option<Saved> {
        let began = Instant::now();
        let is_open = |pending: &Pending| pending.building.is_some() && pending.failed.is_none();
        while self.pending.as_ref().is_some_and(is_open) && began.elapsed() < PATIENCE {
            if let Some(saved) = self.poll() {
                return Some(saved);
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn rotate(&self, best: Option<u64>) {
        let rotated = self.dir.as_ref().zip(self.limit).map(|(dir, limit)| dir.rotate(limit, best));
        if let Some(Err(e)) = rotated {
            tracing::warn!("an old checkpoint was not removed: {e}");
        }
    }

    /// Writes `final/`: the current model, or that of the checkpoint `facts.best`, and its card. All ranks call it.
    ///
    /// # Errors
    /// As [`Checkpoints::settle`].
    pub fn finish(&mut self, stepper: &mut Stepper, facts: Facts) -> Result<()> {
        let mut best = facts.best;
        let card = model_card::text(&facts.of_model(stepper.model.backbone.config_json(), self.adapter.as_ref()));
        if let (Some(step), true) = (best, stepper.ema.is_some()) {
            // A checkpoint's model has the weights themselves.
            let read = optimizer_files::read_ema(stepper, &self.output_dir.join(format!("checkpoint-{step}")), false);
            self.comm.agree(read, "reading the best weights")?;
            best = None;
        }
        stepper.swap_ema()?;
        stepper.weights.settle()?;
        let result = match best {
            None => self.write_final(stepper, &card),
            Some(step) => {
                let copy = |dir: &RunDir| copy_model(&dir.checkpoint(step), &dir.finished(), &self.more, &card);
                self.dir.as_ref().map_or(Ok(()), copy)
            }
        };
        self.comm.agree(result.map_err(|e| e.context("final model not written")), "saving the final model")
    }

    fn write_final(&self, stepper: &Stepper, card: &str) -> Result<()> {
        let (building, folder) = self.create(FINAL)?;
        let phase = saving(FINAL, export::entries(&stepper.params, &self.names).len());
        let mut files = Files { folder: folder.as_deref(), queue: FileQueue::direct(), phase, of_others: Vec::new() };
        self.write_model(stepper, &mut files)?;
        let written = files.queue.join().map_err(|e| self.here(e));
        let written = self.comm.agree(written, "writing the files of the final model");
        written?;
        building.map_or(Ok(()), |building| {
            write_card(building.path(), card);
            building.put(false)
        })
    }

    fn share(&self) -> Share {
        match self.writers {
            Writers::Rank0 => Share { rank: self.comm.rank(), writers: 1 },
            Writers::All => Share { rank: self.comm.rank(), writers: self.comm.world() },
        }
    }

    /// Creates a folder of the run on rank 0. Returns its temporary name too, on the ranks that write. All ranks call it.
    fn create(&self, name: &str) -> Result<(Option<Building>, Option<PathBuf>)> {
        let comm = self.comm.as_ref();
        let target = self.output_dir.join(name);
        let building = self.dir.as_ref().map(|_| Building::create(&target)).transpose();
        let building = comm.agree(building, "creating the folder of a checkpoint")?;
        if self.writers == Writers::Rank0 || comm.world() == 1 {
            let folder = building.as_ref().map(|building| building.path().to_owned());
            return Ok((building, folder));
        }
        let folder = folder::temporary_name(&target)?;
        shared_folder::check(comm, &folder)?;
        Ok((building, Some(folder)))
    }

    /// Writes the model's folder.
    ///
    /// # Errors
    /// Those of gathering, after which the ranks are out of step. Those of writing stay in the queue.
    fn write_model(&self, stepper: &Stepper, files: &mut Files) -> Result<()> {
        let Stepper { model, params, weights, .. } = stepper;
        if let Some(to) = files.folder.filter(|_| self.comm.is_main()) {
            let (to, config, origin) = (to.to_owned(), model.config_json(params.kind()), self.origin.clone());
            let (adapter, generation) = (self.adapter.clone(), self.generation.clone());
            let (settings, more) = (self.settings.clone(), self.more.clone());
            files.queue.push(0, move || {
                let name = if adapter.is_some() { adapter::MODEL_CONFIG } else { "config.json" };
                let carried = carried::of_folder(&origin)?;
                let missing = Tokenizer::missing_files(&origin)?;
                export::write_files(&to, (name, &config), (&origin, &carried), &missing)?;
                adapter.map_or(Ok(()), |adapter| adapter.write(&to))?;
                if let Some(generation) = &generation {
                    folder::write_file(&to.join(export::GENERATION_FILE), &serde_json::to_vec_pretty(generation)?)?;
                }
                export::write_more(&to, &more)?;
                folder::write_file(&to.join(MODEL_FILE), settings.as_bytes())
            });
        }
        // PEFT reads one file.
        let share = if self.adapter.is_some() { Share { writers: 1, ..self.share() } } else { self.share() };
        let mut file = Sink::create(export::weight_file(params), export::entries(params, &self.names), share, files);
        for (unit, spec) in params.layout().units().iter().enumerate() {
            if !spec.members.iter().any(|&id| export::is_exported(params, id)) {
                continue;
            }
            let whole = weights.whole(params, unit)?;
            file.write(files, || export::parts(params, &self.names, unit, &whole));
        }
        file.finish(files);
        Ok(())
    }
}

fn not_written(step: u64, e: Error) -> Error {
    e.context(format!("checkpoint of step {step} not written (earlier ones are kept: continue with --resume auto)"))
}

/// Writes a model's card. A model without one is complete, so a failure only warns.
fn write_card(folder: &Path, card: &str) {
    if let Err(e) = folder::write_file(&folder.join(model_card::FILE), card.as_bytes()) {
        tracing::warn!("the model card was not written: {e}");
    }
}

fn copy_model(from: &Path, target: &Path, more: &[(&'static str, Value)], card: &str) -> Result<()> {
    folder::replace(target, false, |to| {
        let set = weights_of(from);
        TensorFiles::open(&set)?;
        let own = ["config.json", MODEL_FILE, adapter::CONFIG, adapter::MODEL_CONFIG];
        let mut carried = carried::names().chain(own).filter(|name| from.join(name).exists());
        carried.try_for_each(|name| folder::copy_file(&from.join(name), &to.join(name)))?;
        let index = Some(sharded::index_of(&set)).filter(|file| file.exists());
        let copy = |file: PathBuf| folder::copy_file(&file, &to.join(file.file_name().unwrap_or_default()));
        index.into_iter().chain(sharded::files(&set)?).try_for_each(copy)?;
        export::write_more(to, more)?;
        write_card(to, card);
        Ok(())
    })
}

#[cfg(test)]
mod tests;
