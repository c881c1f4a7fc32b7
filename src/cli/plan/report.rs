//! What a plan reports.

use super::rates::of_device;
use crate::config::Config;
use crate::error::Result;
use crate::parallel::Zero;
use crate::plan::device::{Device, Speed};
use crate::plan::fit::Timed;
use crate::plan::lengths::{Lengths, Padding};
use crate::plan::link::Network;
use crate::plan::memory::MemoryEstimate;
use crate::plan::scaling::{Row, Run, WORLDS};
use crate::plan::storage::Storage;
use crate::plan::timeline::Step;
use crate::train::estimate::Estimate;
use crate::train::measure::Measured;
use crate::train::planned_run::{Hardware, PlannedRun, Variant};
use crate::train::{memory_fit, settings};
use std::path::PathBuf;

/// The estimates of a run.
pub(super) struct Report {
    pub planned: PlannedRun,
    pub lengths: Lengths,
    pub padding: Padding,
    pub steps: u64,
    pub steps_per_epoch: u64,
    /// Whether micro_batch_tokens is "auto".
    pub auto_tokens: bool,
    pub ranks: usize,
    pub ways: Vec<Variant>,
    pub limit: Option<Limit>,
    pub storage: Storage,
    /// The folder that the run writes to, and its free bytes.
    pub free: Option<(PathBuf, u64)>,
    pub device: String,
    pub named: Option<&'static Device>,
    pub efficiency: f64,
    pub cpu: bool,
    /// Ranks per node.
    pub ranks_here: usize,
    pub speed: Speed,
    pub network: Network,
    /// The ZeRO stage of the estimated times.
    pub zero: Zero,
    pub rows: Vec<Row>,
    pub measured: Option<Correction>,
}

/// The memory limit of a rank, in bytes, and its origin.
pub(super) struct Limit {
    pub bytes: f64,
    pub of: String,
}

/// Measured steps and their estimates.
pub(super) struct Correction {
    pub world: usize,
    /// From 1.
    pub step: u64,
    pub taken: Measured,
    pub planned: Step,
    pub need: MemoryEstimate,
    /// Empty on one rank.
    pub timed: Vec<Timed>,
}

impl Report {
    /// Returns the name of the model's folder.
    pub fn name(&self) -> String {
        let path = &self.planned.config.model.path;
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// Returns the global batch size at `--ranks`.
    pub fn batch(&self) -> usize {
        self.planned.global_batch(self.ranks).min(self.lengths.examples as usize)
    }

    /// Returns whether this way fits; `None` without a limit.
    pub fn fits(&self, way: &Variant) -> Option<bool> {
        self.limit.as_ref().map(|limit| way.need.total <= limit.bytes)
    }

    pub fn hardware(&self) -> Hardware {
        Hardware { ranks: self.ranks, cpu: self.cpu, limit: self.limit.as_ref().map(|limit| limit.bytes) }
    }

    /// Returns the rows of the table of times, that of `--ranks` among them.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let hosts_are_equal = |&ranks: &usize| ranks.is_multiple_of(self.planned.shards(&self.planned.config, ranks));
        self.with_run(&self.planned.config, self.zero, |run| {
            worlds(self.ranks)
                .into_iter()
                .filter(hosts_are_equal)
                .map(|ranks| run.on(ranks, self.speed, &self.network))
                .collect()
        })
    }

    /// Returns the time of a estimate; `None` if its precision is not the one that speed was measured in.
    pub fn time(&self, estimate: &Estimate) -> Result<Option<Row>> {
        let (config, own) = (&estimate.config, &self.planned.config);
        let speed = match self.named {
            _ if config.parallel.precision == own.parallel.precision => self.speed,
            Some(device) if self.measured.is_none() => of_device(config, device, self.efficiency),
            _ => return Ok(None),
        };
        self.with_run(config, estimate.zero, |run| run.on(estimate.ranks, speed, &self.network)).map(Some)
    }

    /// Calls `look` with the run under this configuration and ZeRO stage.
    pub fn with_run<T>(&self, config: &Config, zero: Zero, look: impl FnOnce(&Run) -> T) -> T {
        let PlannedRun { shaped, data, .. } = &self.planned;
        look(&Run {
            model: &shaped.model,
            teacher: shaped.teacher.as_ref().map(|teacher| &teacher.model),
            specs: &shaped.specs,
            setup: &memory_fit::setup(config, (&shaped.model, &shaped.specs), zero, self.cpu),
            shards: &|ranks| self.planned.shards(config, ranks),
            dataset: &data.train.dataset,
            seed: config.seed,
            micro_batch_tokens: settings::micro_batch_tokens(config),
            global_batch: &|ranks| self.planned.global_batch(ranks),
            total_steps: &|per_epoch| settings::total_steps(config, per_epoch),
        })
    }
}

/// Returns the world sizes of the table, this one among them.
pub(super) fn worlds(ranks: usize) -> Vec<usize> {
    let mut worlds: Vec<usize> = WORLDS.into_iter().chain([ranks]).collect();
    worlds.sort_unstable();
    worlds.dedup();
    worlds
}
