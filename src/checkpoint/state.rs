//! `trainer_state.json`: where a run stands. Field names are those of Hugging Face's Trainer where the meaning is the same.

use crate::checkpoint::folder::write_file;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name in a checkpoint.
pub const FILE: &str = "trainer_state.json";
const FORMAT: u32 = 1;

/// Where a run stands after `global_step` steps; the default is its beginning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The version of this file.
    pub format: u32,
    /// Optimizer steps taken. The data order and all chance follow from it.
    pub global_step: u64,
    /// Epochs of data seen, a fraction inside one.
    pub epoch: f64,
    /// The steps of the whole run.
    pub max_steps: u64,
    /// Those of them that updated nothing: their gradients overflowed (fp16), or the loss was not finite.
    #[serde(default)]
    pub skipped_steps: u64,
    /// The updates that a run had made when AdamW's moments of a parameter, by its native name, began: those of weights
    /// that were frozen before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moments_began: BTreeMap<String, u64>,
    /// The dynamic loss scale; with fp16 alone.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// The best value of the metric that is tracked, and the step it was reached at.
    pub best_metric: Option<f64>,
    pub best_global_step: Option<u64>,
    /// The ranks that wrote it: remaining losses are bit-equal at the same number only.
    pub world: usize,
    /// Tokens that a rank takes through the model at a time: dropout's masks depend on it.
    #[serde(default)]
    pub micro_batch_tokens: Option<usize>,
    /// CPU threads of rank 0: sums on a CPU depend on their number, in the last bits.
    #[serde(default)]
    pub threads: Option<usize>,
    /// The losses of the steps since the last line of a step in `metrics.jsonl`, added up, and how many they are; without
    /// those that are not finite.
    #[serde(default)]
    pub loss_sum: f64,
    #[serde(default)]
    pub loss_steps: u64,
    /// What the order of data depends on besides the settings: a fingerprint of the tokenised training data.
    pub data: String,
    /// The labels in the order of their ids, for a classifier.
    pub labels: Option<Vec<String>>,
    /// The lines of `metrics.jsonl` so far.
    pub log_history: Vec<Value>,
    /// The configuration that ran, as TOML: a later version reads it with its own defaults for keys that are new.
    pub settings: String,
}

/// Where dynamic loss scaling stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// By what the loss of the next step is multiplied, a power of two.
    pub scale: f64,
    /// The steps without overflow since the scale was last set.
    pub good_steps: u64,
}

impl TrainerState {
    /// The step, for a person: `step  50/450`.
    pub fn place(&self) -> String {
        let width = self.max_steps.to_string().len();
        format!("step {:>width$}/{}", self.global_step, self.max_steps)
    }

    /// Counts the loss of a step; one that is not finite does not count.
    pub fn add_loss(&mut self, loss: f64) {
        if loss.is_finite() {
            self.loss_sum += loss;
            self.loss_steps += 1;
        }
    }

    /// Of the steps since the last line in `metrics.jsonl`; NaN where none has a finite loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.loss_steps as f64
    }

    /// The version of the file that this program writes.
    pub fn format() -> u32 {
        FORMAT
    }

    /// Writes the file into a checkpoint folder.
    ///
    /// # Errors
    /// The file's name and what the system says.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_file(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Reads the file of a checkpoint folder.
    ///
    /// # Errors
    /// Exit 2: missing, damaged, or of a newer version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).input_context(path.display())?;
        let state: TrainerState = serde_json::from_str(&text).input_context(path.display())?;
        if state.format != FORMAT {
            return Err(Error::input(format!(
                "{}: format {} was written by another version of trainer; this one reads format {FORMAT}",
                path.display(),
                state.format
            )));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrainerState {
        TrainerState {
            format: FORMAT,
            global_step: 12,
            epoch: 0.1 + 0.2,
            max_steps: 20,
            skipped_steps: 3,
            moments_began: BTreeMap::from([("layer.0.mlp.up.weight".into(), 5)]),
            loss_scale: Some(LossScale { scale: 32768.0, good_steps: 9 }),
            best_metric: Some(0.9),
            best_global_step: Some(10),
            world: 2,
            micro_batch_tokens: Some(4096),
            threads: Some(2),
            loss_sum: 0.1 + 0.7,
            loss_steps: 3,
            data: "00".into(),
            labels: None,
            log_history: vec![serde_json::json!({"step": 12})],
            settings: "seed = 1".into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for state in [state(), TrainerState { loss_scale: None, ..state() }] {
            state.write(dir.path()).unwrap();
            assert_eq!(TrainerState::read(dir.path()).unwrap(), state);
        }
    }

    #[test]
    fn older_checkpoints_skipped_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut json = serde_json::to_value(state()).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.remove("skipped_steps").unwrap();
        fields.remove("loss_scale").unwrap();
        for key in ["threads", "loss_sum", "loss_steps"] {
            fields.remove(key).unwrap();
        }
        std::fs::write(dir.path().join(FILE), json.to_string()).unwrap();
        let expected =
            TrainerState { skipped_steps: 0, loss_scale: None, threads: None, loss_sum: 0.0, loss_steps: 0, ..state() };
        assert_eq!(TrainerState::read(dir.path()).unwrap(), expected);
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        TrainerState { format: FORMAT + 1, ..state() }.write(dir.path()).unwrap();
        let error = TrainerState::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("trainer_state.json: format 2 was written by another version"), "{error}");
    }
}
