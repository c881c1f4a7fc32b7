//! Estimates the memory of a planned run under other settings.

use crate::config::{Config, ZeroStage};
use crate::error::Result;
use crate::parallel::Zero;
use crate::plan::memory::{self, MemoryEstimate};
use crate::train::planned_run::{Hardware, PlannedRun};
use crate::train::{memory_fit, settings};

/// The settings of a run, and their memory.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// As written, with `micro_batch_tokens = "auto"` and `recompute = "auto"` resolved.
    pub config: Config,
    pub ranks: usize,
    /// As configured; for `"auto"` the lowest stage that fits, or the last if none does.
    pub zero: Zero,
    /// Memory for each ZeRO stage.
    pub needs: Vec<MemoryEstimate>,
}

impl Estimate {
    /// Memory at the run's ZeRO stage.
    pub fn need(&self) -> &MemoryEstimate {
        &self.needs[usize::from(self.zero.stage())]
    }

    /// Peak bytes per rank.
    pub fn total(&self) -> f64 {
        self.need().total
    }

    /// Maximum number of tokens in a micro-batch.
    pub fn tokens(&self) -> usize {
        settings::micro_batch_tokens(&self.config)
    }
}

impl PlannedRun {
    /// Estimates the memory of this model and data with another configuration.
    ///
    /// # Errors
    /// As [`crate::data::Sampler::new`].
    pub fn estimate(&self, mut config: Config, hardware: &Hardware) -> Result<Estimate> {
        let Hardware { ranks, cpu, .. } = *hardware;
        config.train.global_batch_size = self.global_batch(ranks);
        let config = self.resolved(config, hardware)?;
        let (model, layout) = (&self.shaped.model, self.layout(&config, ranks));
        let setup = |zero| memory_fit::setup(&config, (model, &self.shaped.specs), zero, cpu);
        let load = self.load(config.clone(), &layout, &setup(Zero::ALL[0]), ranks)?;
        let needs: Vec<MemoryEstimate> =
            Zero::ALL.iter().map(|&zero| memory::estimate(model, &layout, &setup(zero), &load)).collect();
        let lowest = Zero::ALL.into_iter().zip(&needs).find(|(_, need)| hardware.fits(need.total));
        let last = Zero::ALL[Zero::ALL.len() - 1];
        let zero = match config.parallel.zero_stage {
            ZeroStage::Stage(stage) => Zero::new(stage).unwrap_or(Zero::ALL[0]),
            ZeroStage::Auto => lowest.map_or(last, |(zero, _)| zero),
        };
        Ok(Estimate { config, ranks, zero, needs })
    }
}
