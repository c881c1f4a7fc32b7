//! When a run saves, and what.

use crate::checkpoint::tensors::TensorFile;
use crate::checkpoint::{RunDir, TrainerState, export, folder, optimizer};
use crate::comm::Collective;
use crate::error::Result;
use crate::models::hf_names::HfNames;
use crate::train::step::Stepper;
use std::path::PathBuf;
use std::sync::Arc;

/// The saving side of a run. Rank 0 has the folder.
pub struct Checkpoints {
    pub dir: Option<RunDir>,
    pub comm: Arc<dyn Collective>,
    pub names: HfNames,
    /// The folder that tokenizer files are carried from.
    pub origin: PathBuf,
    pub limit: Option<usize>,
    /// Whether the best checkpoint outlives the limit, because it becomes the final model.
    pub keeps_best: bool,
}

impl Checkpoints {
    /// Writes the checkpoint of a step on rank 0; all ranks learn how that went.
    ///
    /// # Errors
    /// What the system said on rank 0: a full disk. The checkpoints before stay.
    pub fn save(&self, stepper: &Stepper, state: &TrainerState) -> Result<()> {
        let write = |dir: &RunDir| -> Result<()> {
            folder::replace(&dir.checkpoint(state.global_step), true, |to| {
                self.write_model(stepper, to)?;
                optimizer::write(to, &stepper.params, &stepper.optimizer)?;
                state.write(to)
            })?;
            let best = state.best_global_step.filter(|_| self.keeps_best);
            if let Some(Err(e)) = self.limit.map(|limit| dir.rotate(limit, best)) {
                tracing::warn!("an old checkpoint stays: {e}");
            }
            Ok(())
        };
        let result = self.dir.as_ref().map_or(Ok(()), write);
        let result = result.map_err(|e| {
            let step = state.global_step;
            e.context(format!("checkpoint of step {step} not written (those before it stay: --resume auto goes on)"))
        });
        self.comm.agree(result, "saving a checkpoint")
    }

    /// Writes `final/`: the model as it is now, or that of the checkpoint `best`.
    ///
    /// # Errors
    /// As [`Checkpoints::save`].
    pub fn finish(&self, stepper: &Stepper, best: Option<u64>) -> Result<()> {
        let write = |dir: &RunDir| {
            folder::replace(&dir.finished(), false, |to| match best {
                None => self.write_model(stepper, to),
                Some(step) => {
                    let from = dir.checkpoint(step);
                    TensorFile::open(&from.join("model.safetensors"))?;
                    let files = export::CARRIED.iter().chain(&["config.json", "model.safetensors"]);
                    files
                        .map(|name| (from.join(name), to.join(name)))
                        .filter(|(from, _)| from.exists())
                        .try_for_each(|(from, to)| folder::copy_file(&from, &to))
                }
            })
        };
        let result = self.dir.as_ref().map_or(Ok(()), write).map_err(|e| e.context("final model not written"));
        self.comm.agree(result, "saving the final model")
    }

    fn write_model(&self, stepper: &Stepper, to: &std::path::Path) -> Result<()> {
        export::write_model(to, &stepper.model.config_json(), &stepper.params, &self.names, &self.origin)
    }
}
