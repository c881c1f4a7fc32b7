//! The state that a run resumes from: read by rank 0, the same on every rank.

use crate::checkpoint::run_dir::Resume;
use crate::checkpoint::state::OptimizerRecord;
use crate::checkpoint::{RunDir, TrainerState};
use crate::comm::Collective;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::observe::signals::StopFlag;
use crate::train::settings;
use crate::train::shards::Shards;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// How a run starts, besides its configuration.
#[derive(Debug, Clone)]
pub struct Start {
    pub resume: Resume,
    /// Resume even if the order of the data would change.
    pub allow_new_data_order: bool,
    /// When the process started; the time to the first step counts from here.
    pub began: Instant,
    pub stop: StopFlag,
}

/// The checkpoint that a run resumes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resumed {
    pub from: PathBuf,
    /// Whether it is in this run's folder, so that its step need not be saved again.
    pub own: bool,
    pub state: TrainerState,
}

impl Resumed {
    /// Opens the run's folder on rank 0 and sends the checkpoint to resume from, if any, to all ranks.
    ///
    /// # Errors
    /// Exit 2 on every rank: errors of [`RunDir::open`], and a `model.path` that the run would remove.
    pub fn find(config: &Config, comm: &dyn Collective, start: &Start) -> Result<(Option<RunDir>, Option<Self>)> {
        let open = || {
            let (dir, from) = RunDir::open(&config.output_dir, &start.resume, config.overwrite_output_dir)?;
            let models =
                [("model.path", Some(&config.model.path)), ("distill.teacher", config.distill.teacher.as_ref())];
            for (key, path) in models {
                if let Some(path) = path.filter(|path| dir.would_remove(path, from.as_deref())) {
                    let path = path.display();
                    return Err(Error::input(format!(
                        "{key} {path} lies in the output_dir, and this run would remove it"
                    )));
                }
            }
            let resumed = from.map(|from| -> Result<Resumed> {
                let mut state = TrainerState::read(&from)?;
                clear_other_best(&mut state, config, &dir)?;
                Ok(Resumed { own: dir.step_of(&from).is_some(), from, state })
            });
            Ok((dir, resumed.transpose()?))
        };
        let opened = if comm.is_main() { open().map(Some) } else { Ok(None) };
        let (dir, resumed) = comm.agree(opened, "opening output_dir")?.unzip();
        let bytes = serde_json::to_vec(&resumed.flatten())?;
        let bytes = comm.broadcast_bytes(bytes, 0, "the checkpoint to start from")?;
        Ok((dir, serde_json::from_slice(&bytes)?))
    }

    /// Whether weights that were frozen in the checkpoint may be trained now.
    ///
    /// # Errors
    /// Exit 2 if the checkpoint's settings cannot be read.
    pub fn thaws(&self, config: &Config) -> Result<bool> {
        let (before, now) = (settings_of(&self.state)?.model, &config.model);
        Ok((before.train, before.freeze) != (now.train.clone(), now.freeze.clone()))
    }

    /// Checks that the checkpoint has the state of the run's optimizer.
    ///
    /// # Errors
    /// Exit 2 with both optimizers, their states, and the remedies.
    pub fn check_optimizer(&self, now: &OptimizerRecord) -> Result<()> {
        let before = &self.state.optimizer;
        if before == now {
            return Ok(());
        }
        let shown = |record: &OptimizerRecord| {
            let states = if record.states.is_empty() { "no state".to_owned() } else { record.states.join(", ") };
            format!("{:?} ({states})", record.name)
        };
        let (folder, before, now) = (self.from.display(), shown(before), shown(now));
        Err(Error::input(format!(
            "{folder}: the checkpoint has the state of train.optim = {before}, and this run's is {now}: restore \
             train.optim and train.optim_args, or start a new run from its weights with model.path = {folder}"
        )))
    }

    /// Checks that the run has the layers of the checkpoint's model.
    ///
    /// # Errors
    /// Exit 2 with the remedies.
    pub fn check_layers(&self, config: &Config) -> Result<()> {
        let (before, folder) = (settings_of(&self.state)?, self.from.display());
        if before.model.layers != config.model.layers && before.model.path == config.model.path {
            return Err(Error::input(format!(
                "{folder}: the checkpoint's model has other layers (model.layers): restore the setting, or start a new \
                 run"
            )));
        }
        Ok(())
    }

    /// Checks that a teacher of the same name is the checkpoint's; `teacher` is the fingerprint of the run's.
    ///
    /// # Errors
    /// Exit 2 with the remedies.
    pub fn check_teacher(&self, config: &Config, teacher: Option<&str>) -> Result<()> {
        let (before, folder) = (settings_of(&self.state)?, self.from.display());
        let same_path = before.distill.teacher == config.distill.teacher;
        if same_path && self.state.teacher.as_deref() != teacher {
            return Err(Error::input(format!(
                "distill.teacher: the weights in the folder are not those that {folder} was trained with: restore them, \
                 or start a new run"
            )));
        }
        Ok(())
    }

    /// Returns the checkpoint's micro-batch tokens if the world size is the same, because dropout masks depend on them.
    /// With another world size, both masks and free memory differ anyway.
    ///
    /// # Errors
    /// Exit 2 if the checkpoint's settings cannot be read.
    pub fn micro_batch_tokens(&self, world: usize) -> Result<Option<usize>> {
        if self.state.world != world {
            return Ok(None);
        }
        // Older checkpoints have it only in their settings.
        let set = settings_of(&self.state)?.train.micro_batch_tokens.given();
        Ok(self.state.micro_batch_tokens.or(set))
    }

    /// Returns the line of `metrics.jsonl` about a run of `world` ranks that resumes with these changes.
    pub fn line(&self, world: usize, changed: &[String]) -> Value {
        let (step, from) = (self.state.global_step, self.from.display().to_string());
        json!({"event": "resumed", "step": step, "world": world, "from": from, "changed": changed})
    }

    /// Compares the settings, the fingerprint of the data and the shards of a stream with the checkpoint's; returns the
    /// settings that differ, one per line.
    ///
    /// # Errors
    /// Exit 2 if the order of the data would change and that is not `allowed`; with a stream also other shards.
    pub fn check(
        &self,
        config: &Config,
        (data, shards): (&str, Option<&Shards>),
        allowed: bool,
    ) -> Result<Vec<String>> {
        let before = settings_of(&self.state)?;
        if let (Some(shards), Some(before), false) = (shards, &self.state.stream, allowed) {
            shards.check_resumed(before)?;
        }
        settings::compare(config, &before, self.state.data == data, allowed)
    }
}

fn settings_of(state: &TrainerState) -> Result<Config> {
    Config::parse(&state.settings, "settings in trainer_state.json", &[])
}

/// Clears the best value if the run uses another metric, and the best step if the run needs its checkpoint but the
/// checkpoint does not exist.
fn clear_other_best(state: &mut TrainerState, config: &Config, dir: &RunDir) -> Result<()> {
    let (now, before) = (&config.train, &settings_of(state)?.train);
    let same_metric = now.metric_for_best_model == before.metric_for_best_model
        && now.is_greater_better() == before.is_greater_better();
    let at_hand = state.best_global_step.is_some_and(|step| dir.is_valid(step));
    if !same_metric || (now.load_best_model_at_end && !at_hand) {
        state.best_metric = None;
        state.best_global_step = None;
        state.evaluations_without_improvement = 0;
    }
    Ok(())
}
