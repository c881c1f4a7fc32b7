//! The same run under other settings: what a rank would need then.

use crate::config::{Config, ZeroStage};
use crate::error::Result;
use crate::nn::Layout;
use crate::parallel::Zero;
use crate::plan::memory::{self, MemoryEstimate};
use crate::train::outlook::Outlook;
use crate::train::{memory_need, settings};

/// Where a run computes, and with how much memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub ranks: usize,
    /// Whether ranks compute on a CPU.
    pub cpu: bool,
    /// Bytes that a rank may fill, where that is known.
    pub limit: Option<f64>,
}

/// A run's settings, and what they need.
#[derive(Debug, Clone)]
pub struct Trial {
    /// As written, but for the tokens at a time that `"auto"` stands for.
    pub config: Config,
    pub ranks: usize,
    /// As set; of `"auto"` the lowest stage that fits, where none does the last.
    pub zero: Zero,
    /// Of each ZeRO stage.
    pub needs: Vec<MemoryEstimate>,
}

impl Trial {
    /// At the run's own ZeRO stage.
    pub fn need(&self) -> &MemoryEstimate {
        &self.needs[usize::from(self.zero.stage())]
    }

    /// Bytes of a rank at most.
    pub fn total(&self) -> f64 {
        self.need().total
    }

    /// Tokens that a rank takes through the model at a time.
    pub fn tokens(&self) -> usize {
        settings::micro_batch_tokens(&self.config)
    }
}

impl Place {
    /// Whether so many bytes fit; where no limit is known all do.
    pub fn holds(&self, bytes: f64) -> bool {
        self.limit.is_none_or(|limit| bytes <= limit)
    }
}

impl Outlook {
    /// The same model and data under a configuration as it is written.
    ///
    /// # Errors
    /// As [`crate::data::Sampler::new`].
    pub fn trial(&self, mut config: Config, place: &Place) -> Result<Trial> {
        let Place { ranks, cpu, .. } = *place;
        config.train.global_batch_size = self.global_batch(ranks);
        config.train.micro_batch_tokens = self.tokens(&config, place)?;
        let (model, layout) = (&self.shaped.model, Layout::new(&self.shaped.specs, ranks));
        let setup = |zero| memory_need::setup(&config, model.stages(), zero, cpu);
        let load = self.load(config.clone(), &layout, &setup(Zero::ALL[0]), ranks)?;
        let needs: Vec<MemoryEstimate> =
            Zero::ALL.iter().map(|&zero| memory::estimate(model, &layout, &setup(zero), &load)).collect();
        let lowest = Zero::ALL.into_iter().zip(&needs).find(|(_, need)| place.holds(need.total));
        let last = Zero::ALL[Zero::ALL.len() - 1];
        let zero = match config.parallel.zero_stage {
            ZeroStage::Stage(stage) => Zero::new(stage).unwrap_or(Zero::ALL[0]),
            ZeroStage::Auto => lowest.map_or(last, |(zero, _)| zero),
        };
        Ok(Trial { config, ranks, zero, needs })
    }
}
