//! Writes checkpoints and the final model.
//!
//! All ranks take part: sharded tensors are gathered unit by unit, and each unit is written before the next one, so that
//! saving needs no more memory than a step. Rank 0 writes, or with [`Writers::All`] every rank a part of the tensors.

use crate::checkpoint::adapter::{self, AdapterConfig};
use crate::checkpoint::run_dir::FINAL;
use crate::checkpoint::sharded::{self, TensorFiles};
use crate::checkpoint::weight_files::weights_of;
use crate::checkpoint::{RunDir, TrainerState, export, folder};
use crate::comm::Collective;
use crate::config::{MODEL_FILE, Writers};
use crate::error::Result;
use crate::machine::host_name;
use crate::models::hf_names::HfNames;
use crate::observe::progress::Phase;
use crate::train::checkpoint_files::{Share, Sink};
use crate::train::step::Stepper;
use crate::train::{optimizer_files, shared_folder};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    pub limit: Option<usize>,
    /// Whether to keep the best checkpoint beyond the limit, because it becomes the final model.
    pub keeps_best: bool,
}

fn saving(folder: &str, tensors: usize) -> Phase {
    Phase::of(format!("saving {folder}"), tensors as u64, "tensors")
}

impl Checkpoints {
    /// Writes the checkpoint of a step. All ranks call it and get the same result.
    ///
    /// # Errors
    /// The system's error on a rank that writes, such as a full disk. Earlier checkpoints are unchanged.
    pub fn save(&self, stepper: &mut Stepper, state: &TrainerState) -> Result<()> {
        stepper.weights.settle()?;
        let stepper = &*stepper;
        let fill = |to: Option<&Path>| -> Result<()> {
            let params = &stepper.params;
            let states = optimizer_files::tensors(stepper);
            let tensors = export::entries(params, &self.names).len() + states;
            let phase = saving(&format!("checkpoint-{}", state.global_step), tensors);
            let weights = self.write_model(stepper, to, &phase)?;
            let optimizer = optimizer_files::write(stepper, to, self.share(), &phase)?;
            weights.and(optimizer)?;
            to.filter(|_| self.comm.is_main()).map_or(Ok(()), |to| state.write(to))
        };
        let result = self.replace(&format!("checkpoint-{}", state.global_step), true, fill).map_err(|e| {
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
        let mut best = best;
        if let (Some(step), true) = (best, stepper.ema.is_some()) {
            // A checkpoint's model has the weights themselves.
            let read = optimizer_files::read_ema(stepper, &self.output_dir.join(format!("checkpoint-{step}")), false);
            self.comm.agree(read, "reading the best weights")?;
            best = None;
        }
        stepper.swap_ema()?;
        stepper.weights.settle()?;
        let stepper = &*stepper;
        let result = match best {
            None => self.replace(FINAL, false, |to| {
                let phase = saving(FINAL, export::entries(&stepper.params, &self.names).len());
                self.write_model(stepper, to, &phase)?
            }),
            Some(step) => self.dir.as_ref().map_or(Ok(()), |dir| copy_model(&dir.checkpoint(step), &dir.finished())),
        };
        self.comm.agree(result.map_err(|e| e.context("final model not written")), "saving the final model")
    }

    fn share(&self) -> Share {
        match self.writers {
            Writers::Rank0 => Share { rank: self.comm.rank(), writers: 1 },
            Writers::All => Share { rank: self.comm.rank(), writers: self.comm.world() },
        }
    }

    /// Writes a folder of the run. Every rank runs `fill`, because its collectives need all ranks; it gets the folder on
    /// the ranks that write.
    fn replace(&self, name: &str, mark: bool, fill: impl Fn(Option<&Path>) -> Result<()>) -> Result<()> {
        let target = self.output_dir.join(name);
        if self.writers == Writers::All && self.comm.world() > 1 {
            return self.replace_together(&target, mark, fill);
        }
        if self.dir.is_none() {
            return fill(None);
        }
        let mut filled = false;
        let result = folder::replace(&target, mark, |to| {
            filled = true;
            fill(Some(to))
        });
        if filled { result } else { fill(None).and(result) }
    }

    /// Writes a folder on all ranks: rank 0 creates it, and puts it in place after every rank has written its files.
    fn replace_together(&self, target: &Path, mark: bool, fill: impl Fn(Option<&Path>) -> Result<()>) -> Result<()> {
        const CREATING: &str = "creating the folder of a checkpoint";
        let comm = self.comm.as_ref();
        let fill = |to: &Path| -> Result<()> {
            shared_folder::check(comm, to)?;
            let host = || format!("rank {} on {}", comm.rank(), host_name());
            let written = fill(Some(to)).map_err(|e| if comm.is_main() { e } else { e.context(host()) });
            comm.agree(written, "writing the files of a checkpoint")
        };
        if self.dir.is_none() {
            comm.agree(Ok(()), CREATING)?;
            return fill(&folder::temporary_name(target)?);
        }
        let mut created = false;
        let result = folder::replace(target, mark, |to| {
            created = true;
            comm.agree(Ok(()), CREATING)?;
            fill(to)
        });
        if created { result } else { comm.agree(result, CREATING) }
    }

    /// The outer error comes from gathering, after which the ranks are out of step. The inner one comes from writing a
    /// file, and is returned after all units are gathered.
    fn write_model(&self, stepper: &Stepper, to: Option<&Path>, phase: &Phase) -> Result<Result<()>> {
        let Stepper { model, params, weights, .. } = stepper;
        let files = to.filter(|_| self.comm.is_main()).map_or(Ok(()), |to| {
            let name = if self.adapter.is_some() { adapter::MODEL_CONFIG } else { "config.json" };
            export::write_files(to, (name, &model.config_json(params.kind())), &self.origin)?;
            self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.write(to))?;
            if let Some(generation) = &self.generation {
                folder::write_file(&to.join(export::GENERATION_FILE), &serde_json::to_vec_pretty(generation)?)?;
            }
            folder::write_file(&to.join(MODEL_FILE), self.settings.as_bytes())
        });
        let set = to.map(|to| to.join(export::weight_file(params)));
        // PEFT reads one file.
        let share = if self.adapter.is_some() { Share { writers: 1, ..self.share() } } else { self.share() };
        let mut file = Sink::create(set, export::entries(params, &self.names), share, phase);
        for (unit, spec) in params.layout().units().iter().enumerate() {
            if !spec.members.iter().any(|&id| export::is_exported(params, id)) {
                continue;
            }
            let whole = weights.whole(params, unit)?;
            file.write(|| export::parts(params, &self.names, unit, &whole));
        }
        Ok(files.and(file.finish()))
    }
}

fn copy_model(from: &Path, target: &Path) -> Result<()> {
    folder::replace(target, false, |to| {
        let set = weights_of(from);
        TensorFiles::open(&set)?;
        let carried = export::CARRIED
            .iter()
            .chain(&["config.json", MODEL_FILE, adapter::CONFIG, adapter::MODEL_CONFIG])
            .map(|name| from.join(name));
        let files = carried.chain([sharded::index_of(&set)]).filter(|file| file.exists());
        let copy = |file: PathBuf| folder::copy_file(&file, &to.join(file.file_name().unwrap_or_default()));
        files.chain(sharded::files(&set)?).try_for_each(copy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::run_dir::Resume;
    use crate::comm::threads;
    use crate::error::Error;
    use std::fs;
    use std::thread;
    use std::time::Duration;

    /// Three ranks write a folder; `broken` cannot. Returns what each rank got.
    fn write_together(output_dir: &Path, broken: Option<usize>) -> Vec<Result<()>> {
        let rank_main = |comm: Arc<dyn Collective>| -> Result<()> {
            let open = || RunDir::open(output_dir, &Resume::None, true).map(|(dir, _)| dir);
            let rank = comm.rank();
            let checkpoints = Checkpoints {
                dir: comm.is_main().then(open).transpose()?,
                output_dir: output_dir.to_owned(),
                writers: Writers::All,
                comm: Arc::clone(&comm),
                names: HfNames { prefix: "", params: Vec::new(), legacy: &[] },
                settings: String::new(),
                origin: PathBuf::new(),
                adapter: None,
                generation: None,
                limit: None,
                keeps_best: false,
            };
            let result = checkpoints.replace("checkpoint-1", true, |to| {
                let to = to.expect("every rank has the folder");
                folder::write_file(&to.join(rank.to_string()), format!("{broken:?}").as_bytes())?;
                if broken == Some(rank) { Err(Error::other("no space left")) } else { Ok(()) }
            });
            comm.agree(result, "saving")
        };
        let main = &rank_main;
        thread::scope(|scope| {
            let ends = threads::group(3, Duration::from_secs(20)).into_iter();
            let ranks: Vec<_> = ends.map(|comm| scope.spawn(move || main(comm))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
        })
    }

    /// Whichever rank fails, all learn it, the previous checkpoint stays, and nothing else does.
    #[test]
    fn a_failure_of_any_rank_keeps_only_the_previous_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let content = || {
            let of = |path: &Path| fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
            let mut all = of(dir.path());
            all.extend(of(&dir.path().join("checkpoint-1")));
            let mut all: Vec<(PathBuf, Option<String>)> =
                all.into_iter().map(|path| (path.clone(), fs::read_to_string(path).ok())).collect();
            all.sort();
            all
        };
        assert!(write_together(dir.path(), None).iter().all(Result::is_ok));
        let before = content();
        assert_eq!(before.len(), 1 + 3 + 1, "the folder, three files and the mark: {before:?}");
        for broken in 0..3 {
            for (rank, result) in write_together(dir.path(), Some(broken)).into_iter().enumerate() {
                let message = result.expect_err("an error").to_string();
                let host = format!("rank {broken} on {}: ", host_name());
                assert!(
                    message.contains("no space left") && message.contains(&host) == (broken > 0),
                    "{rank}: {message}"
                );
            }
            assert_eq!(content(), before, "rank {broken} failed");
        }
    }
}
