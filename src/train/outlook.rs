//! A run that is only looked at: its model without weights, its data or what is assumed of it, and what they would need.

use crate::config::{Config, IntervalStrategy, Precision, Recompute, TaskKind};
use crate::data::masking::Masking;
use crate::data::{CacheUse, Collation, Dataset, Example, Facts, Label, Prepared, Sampler};
use crate::error::Result;
use crate::nn::Layout;
use crate::parallel::Zero;
use crate::plan::lengths::{Lengths, Padding};
use crate::plan::memory::{self, Need, Setup};
use crate::plan::storage::{Saving, Storage};
use crate::plan::timeline;
use crate::train::loaded::Shaped;
use crate::train::session::{self, Data};
use crate::train::{memory_need, reading, settings};
use serde_json::Value;

/// What is taken for the data where there is none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumed {
    /// Tokens of every example.
    pub length: usize,
    /// One global batch, unless told.
    pub examples: Option<usize>,
}

/// A run's model and data.
pub struct Outlook {
    pub config: Config,
    pub shaped: Shaped,
    pub data: Data,
    pub max_length: usize,
}

/// One way to hold the same run.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    pub zero: Zero,
    pub precision: Precision,
    pub recompute: Recompute,
    pub need: Need,
    /// Bytes of the largest group of collectives.
    pub largest_group: f64,
    /// Whether the configuration says so.
    pub configured: bool,
}

impl Outlook {
    /// Reads what the configuration names; no weights are read.
    ///
    /// # Errors
    /// Exit 2 for what is wrong with the model folder or the data.
    pub fn open(config: Config, assumed: Option<Assumed>) -> Result<Self> {
        let (declared, max_length) = session::declare(&config)?;
        let data = match assumed {
            Some(assumed) => assume(&config, assumed, declared.vocab_size())?,
            None => session::read_data(&config, max_length, config.task.labels.clone())?,
        };
        declared.check_vocabulary(&data.train)?;
        let shaped = declared.with_head(&data.head, &config.model.freeze)?;
        Ok(Outlook { config, shaped, data, max_length })
    }

    /// The order of the data on so many ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self, ranks: usize) -> Result<Sampler> {
        let train = &self.config.train;
        let lengths = self.data.train.dataset.lengths();
        Sampler::new(self.config.seed, lengths, train.global_batch_size, ranks, train.micro_batch_tokens)
    }

    /// Steps of the run, and of an epoch.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn steps(&self) -> Result<(u64, u64)> {
        let per_epoch = self.sampler(1)?.steps_per_epoch();
        Ok((settings::total_steps(&self.config, per_epoch), per_epoch))
    }

    /// How long the training examples are, and what padding them would have cost.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn lengths(&self) -> Result<(Lengths, Padding)> {
        let lengths = self.data.train.dataset.lengths();
        let padding = Padding::of(&lengths, &self.sampler(1)?, self.max_length);
        Ok((Lengths::of(&lengths), padding))
    }

    /// Numbers of the model, and those of them that are trained.
    pub fn parameters(&self) -> (u64, u64) {
        let count = |trained: bool| {
            let counted = self.shaped.specs.iter().filter(|spec| spec.trainable || !trained);
            counted.map(|spec| spec.numel() as u64).sum()
        };
        (count(false), count(true))
    }

    /// What decides about a rank's memory, as configured but at this ZeRO stage.
    pub fn setup(&self, zero: Zero, cpu: bool) -> Setup {
        memory_need::setup(&self.config, self.shaped.model.stages(), zero, cpu)
    }

    /// What a rank of so many needs at every ZeRO stage, in fp32 and in half precision, with recomputation and without.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn ways(&self, ranks: usize, cpu: bool) -> Result<Vec<Way>> {
        let (model, own) = (&self.shaped.model, &self.config.parallel);
        let layout = Layout::new(&self.shaped.specs, ranks);
        let half = if own.precision == Precision::Fp16 { Precision::Fp16 } else { Precision::Bf16 };
        let mut recomputes = vec![Recompute::None, Recompute::All];
        if !recomputes.contains(&own.recompute) {
            recomputes.insert(1, own.recompute);
        }
        let mut ways = Vec::new();
        for precision in [Precision::Fp32, half] {
            for &recompute in &recomputes {
                let mut config = self.config.clone();
                config.parallel.precision = precision;
                config.parallel.recompute = recompute;
                if precision == Precision::Fp32 {
                    config.parallel.reduce_dtype = Precision::Fp32;
                }
                let setup = |zero| memory_need::setup(&config, model.stages(), zero, cpu);
                let load = memory_need::load(&config, model, &layout, &setup(Zero::ALL[0]), &self.data, ranks)?;
                for zero in Zero::ALL {
                    let setup = setup(zero);
                    ways.push(Way {
                        zero,
                        precision,
                        recompute,
                        need: memory::need(model, &layout, &setup, &load),
                        largest_group: timeline::largest_group(&layout, &setup),
                        configured: precision == own.precision
                            && recompute == own.recompute
                            && own.zero_stage == crate::config::ZeroStage::Stage(zero.stage()),
                    });
                }
            }
        }
        Ok(ways)
    }

    /// The step with the largest micro-batch of a rank among so many, from 0, and what a rank needs at this ZeRO stage.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn busiest(&self, ranks: usize, zero: Zero, cpu: bool) -> Result<(u64, Need)> {
        let (model, setup) = (&self.shaped.model, self.setup(zero, cpu));
        let layout = Layout::new(&self.shaped.specs, ranks);
        let load = memory_need::load(&self.config, model, &layout, &setup, &self.data, ranks)?;
        Ok((load.step, memory::need(model, &layout, &setup, &load)))
    }

    /// What the run writes.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn storage(&self) -> Result<Storage> {
        let train = &self.config.train;
        let (steps, per_epoch) = self.steps()?;
        let saves = match train.save_strategy {
            IntervalStrategy::No => 0,
            IntervalStrategy::Steps => steps.div_ceil(train.save_steps.max(1)),
            IntervalStrategy::Epoch => steps.div_ceil(per_epoch),
        };
        let (limit, keeps_best) = (train.save_total_limit, train.load_best_model_at_end);
        let saving = Saving { saves, limit, keeps_best };
        Ok(Storage::of(&self.shaped.specs, settings::kind(self.config.parallel.precision), saving))
    }
}

/// Examples of one length, as the task reads them: of seq2seq half of the tokens are the target's.
fn assume(config: &Config, assumed: Assumed, vocab_size: usize) -> Result<Data> {
    let length = assumed.length;
    let examples = assumed.examples.unwrap_or(config.train.global_batch_size);
    let kind = config.task.kind;
    let ids: Vec<u32> = (0..length).map(|i| (i % vocab_size) as u32).collect();
    let example = |_| {
        let mut example = Example::single(ids.clone(), vec![0; length], Label::None);
        match kind {
            TaskKind::Seq2seq => {
                let target = length / 2;
                example.lengths = vec![(length - target) as u32, target as u32];
            }
            TaskKind::TokenClassification => example.label = Label::Tokens(vec![0; length]),
            _ => {}
        }
        example
    };
    let collation = match kind {
        TaskKind::CausalLm | TaskKind::Chat => Collation::NextToken,
        TaskKind::Seq2seq => Collation::SourceTarget { start: 0 },
        TaskKind::MaskedLm => Collation::Masked(Masking {
            probability: config.task.mlm_probability.unwrap_or(0.15),
            whole_words: false,
            mask: 0,
            vocab_size: vocab_size as u32,
        }),
        _ => Collation::Plain,
    };
    let facts = Facts {
        // A head has two labels where nobody says how many.
        labels: config.task.labels.clone().or_else(|| Some(vec!["0".into(), "1".into()])),
        skipped: 0,
        skipped_reasons: Vec::new(),
        truncated: 0,
        vocab_size: vocab_size.min(length),
        segments: 1,
        remarks: Vec::new(),
        references: Value::Null,
    };
    let head = reading::head(&config.task, &facts, &config.data.train)?;
    let dataset = Dataset::new((0..examples).map(example), collation, [0; 32]);
    Ok(Data { train: Prepared { dataset, facts, cache: CacheUse::Built }, eval: None, head })
}
