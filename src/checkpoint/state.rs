//! `trainer_state.json`: the progress of a run. Fields are named as in Hugging Face's Trainer where they mean the same.

use crate::checkpoint::folder::write_file;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub const FILE: &str = "trainer_state.json";
const FORMAT: u32 = 1;

/// The state of a run after `global_step` steps; the default is the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Version of the file format.
    pub format: u32,
    /// Number of steps done. With the seed, it determines data order and randomness.
    pub global_step: u64,
    /// Number of epochs done, with a fractional part.
    pub epoch: f64,
    /// Total number of steps of the run.
    pub max_steps: u64,
    /// Number of steps without an update, because of gradient overflow (fp16) or a NaN or Inf loss.
    #[serde(default)]
    pub skipped_steps: u64,
    /// The optimizer whose state the checkpoint has; AdamW in those of older versions.
    #[serde(default)]
    pub optimizer: OptimizerRecord,
    /// For formerly frozen parameters, by native name: the number of updates before their optimizer state began.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moments_began: BTreeMap<String, u64>,
    /// The dynamic loss scale; only with fp16.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// The state of `reduce_lr_on_plateau`; only with this schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plateau: Option<PlateauState>,
    /// Best value of the tracked metric, and its step.
    pub best_metric: Option<f64>,
    pub best_global_step: Option<u64>,
    /// Number of evaluations since the metric last improved by more than `train.early_stopping_threshold`.
    #[serde(default)]
    pub evaluations_without_improvement: u64,
    /// World size of the run; the remaining losses are bit-equal only with the same world size.
    pub world: usize,
    /// Micro-batch size in tokens; dropout masks depend on it.
    #[serde(default)]
    pub micro_batch_tokens: Option<usize>,
    /// CPU threads of rank 0: the last bits of sums on a CPU depend on it.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Sum and number of finite losses since the last step line in `metrics.jsonl`.
    #[serde(default)]
    pub loss_sum: f64,
    #[serde(default)]
    pub loss_steps: u64,
    /// The position in the shards of the training data; only with `data.streaming`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamState>,
    /// Fingerprint of the tokenized training data, which with the settings determines the data order.
    pub data: String,
    /// Fingerprint of the teacher's weights, which no checkpoint contains; only with a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The labels in order of their ids, for a classifier.
    pub labels: Option<Vec<String>>,
    /// The lines of `metrics.jsonl` so far.
    pub log_history: Vec<Value>,
    /// The configuration of the run, as TOML; later versions use their defaults for new keys.
    pub settings: String,
}

/// An optimizer in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizerRecord {
    /// The name, as in `train.optim` and of the file in `optimizer/`.
    pub name: String,
    /// The names of its states. Without any there is no file.
    pub states: Vec<String>,
}

impl Default for OptimizerRecord {
    fn default() -> Self {
        OptimizerRecord { name: "adamw".into(), states: vec!["exp_avg".into(), "exp_avg_sq".into()] }
    }
}

/// The state of dynamic loss scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// Loss scale of the next step, a power of two.
    pub scale: f64,
    /// Number of steps without overflow since the scale was last changed.
    pub good_steps: u64,
}

/// The state of the schedule `reduce_lr_on_plateau`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlateauState {
    /// The learning rate at the start.
    pub peak: f64,
    /// Learning rate of the next step.
    pub learning_rate: f64,
    /// Best metric so far.
    pub best: Option<f64>,
    /// Number of evaluations without improvement.
    pub num_bad_evaluations: u64,
    /// Number of evaluations that still do not count.
    pub cooldown: u64,
}

/// How far the shards were read, and which they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Fingerprint of the data, the seed and the size of the buffer, which determine the order of the examples.
    pub data: String,
    pub seed: u64,
    pub shuffle_buffer_size: usize,
    /// Pass over the shards, from 0.
    pub pass: u64,
    /// Numbers of examples of the pass that were taken from the buffer, and that were put into it.
    pub taken: u64,
    pub arrived: u64,
    /// Where reading begins again: the index of a shard in the order of the pass, the place in it (lines; elements of a
    /// JSON array; rows), and the number of the first example there.
    pub shard: usize,
    pub place: u64,
    pub first: u64,
    /// In the order of `data.train`.
    pub shards: Vec<ShardStamp>,
}

/// What identifies a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStamp {
    /// The name of the file, without its folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// The hash of its first and last bytes.
    pub ends: String,
}

impl TrainerState {
    /// Formats the step for logs: `step  50/450`.
    pub fn place(&self) -> String {
        let width = self.max_steps.to_string().len();
        format!("step {:>width$}/{}", self.global_step, self.max_steps)
    }

    /// Adds the loss of a step; NaN and Inf are ignored.
    pub fn add_loss(&mut self, loss: f64) {
        if loss.is_finite() {
            self.loss_sum += loss;
            self.loss_steps += 1;
        }
    }

    /// Mean loss since the last line in `metrics.jsonl`; NaN without a finite loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.loss_steps as f64
    }

    /// Version of the file format that this program writes.
    pub fn format() -> u32 {
        FORMAT
    }

    /// Writes the file to a checkpoint folder.
    ///
    /// # Errors
    /// The file name and the system error.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_file(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Reads the file of a checkpoint folder.
    ///
    /// # Errors
    /// Exit 2: a missing or damaged file, or another format version.
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
            optimizer: OptimizerRecord { name: "sgd".into(), states: Vec::new() },
            moments_began: BTreeMap::from([("layer.0.mlp.up.weight".into(), 5)]),
            loss_scale: Some(LossScale { scale: 32768.0, good_steps: 9 }),
            plateau: Some(PlateauState {
                peak: 0.1,
                learning_rate: 0.1 * 0.1,
                best: None,
                num_bad_evaluations: 2,
                cooldown: 1,
            }),
            best_metric: Some(0.9),
            evaluations_without_improvement: 2,
            best_global_step: Some(10),
            world: 2,
            micro_batch_tokens: Some(4096),
            threads: Some(2),
            teacher: Some("cd".into()),
            stream: Some(StreamState {
                pass: 2,
                shards: vec![ShardStamp { name: "a.jsonl.zst".into(), bytes: 7, ends: "ef".into() }],
                ..StreamState::default()
            }),
            loss_sum: 0.1 + 0.7,
            loss_steps: 3,
            data: "00".into(),
            labels: None,
            log_history: vec![serde_json::json!({"step": 12})],
            settings: "seed = 1".into(),
        }
    }

    #[test]
    fn the_state_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for state in [state(), TrainerState { loss_scale: None, stream: None, ..state() }] {
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
        fields.remove("optimizer").unwrap();
        for key in ["threads", "loss_sum", "loss_steps"] {
            fields.remove(key).unwrap();
        }
        std::fs::write(dir.path().join(FILE), json.to_string()).unwrap();
        let expected = TrainerState {
            skipped_steps: 0,
            loss_scale: None,
            threads: None,
            loss_sum: 0.0,
            loss_steps: 0,
            optimizer: OptimizerRecord::default(),
            ..state()
        };
        assert_eq!(TrainerState::read(dir.path()).unwrap(), expected);
    }

    #[test]
    fn another_format_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        TrainerState { format: FORMAT + 1, ..state() }.write(dir.path()).unwrap();
        let error = TrainerState::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("trainer_state.json: format 2 was written by another version"), "{error}");
    }
}
