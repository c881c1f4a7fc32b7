//! A run that is only looked at: its model without weights, its data or what is assumed of it, and what they would need.

use crate::config::{Config, MicroBatchTokens, Precision, Recompute, TaskKind, ZeroStage};
use crate::data::masking::Masking;
use crate::data::random::SplitMix64;
use crate::data::{CacheUse, Collation, Dataset, Example, Facts, Label, Prepared, Sampler};
use crate::error::{Error, Result};
use crate::nn::Layout;
use crate::parallel::Zero;
use crate::plan::lengths::{Lengths, Padding};
use crate::plan::load::Load;
use crate::plan::memory::{self, MemoryEstimate, Setup};
use crate::plan::storage::Storage;
use crate::plan::timeline;
use crate::train::loaded::{Declared, Shaped};
use crate::train::memory_need::{Fit, Open};
use crate::train::session::{self, Data};
use crate::train::sources::MAX_TARGET_LENGTH;
use crate::train::trial::Place;
use crate::train::{memory_need, reading, settings};
use serde_json::Value;
use std::sync::Arc;

/// What is taken for the data where there is none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumed {
    /// Tokens of every example.
    pub length: usize,
    pub examples: usize,
}

/// Tokens of assumed data that are different: enough to meet most of a vocabulary.
const DIFFERENT: usize = 1 << 20;

/// A run's model and data.
pub struct Outlook {
    /// As written; [`Outlook::on`] has it for so many ranks.
    pub config: Config,
    /// Examples for each rank in a global batch that grows with them.
    pub batch_per_rank: Option<usize>,
    pub shaped: Shaped,
    pub data: Arc<Data>,
    pub max_length: usize,
    /// Whether the data is assumed; there is none to evaluate on then.
    pub assumed: bool,
}

/// One way to hold the same run.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    pub zero: Zero,
    pub precision: Precision,
    pub recompute: Recompute,
    pub need: MemoryEstimate,
    /// Bytes of the largest group of collectives.
    pub largest_group: f64,
    /// Whether a run takes it; of "auto" [`Outlook::choose`] knows.
    pub configured: bool,
}

impl Outlook {
    /// Reads what the configuration names; no weights are read.
    ///
    /// # Errors
    /// Exit 2 for what is wrong with the model folder or the data.
    pub fn open(config: Config, batch_per_rank: Option<usize>, assumed: Option<Assumed>) -> Result<Self> {
        let (declared, mut max_length) = session::declare(&config)?;
        let data = match assumed {
            Some(assumed) => {
                max_length = max_length.max(check_length(&config, &declared, assumed.length)?);
                assume(&config, assumed, declared.vocab_size())?
            }
            None => session::read_data(&config, max_length, config.task.labels.clone())?,
        };
        declared.check_vocabulary(&data.train)?;
        let shaped = declared.with_head(&data.head, &config.model.freeze)?;
        Ok(Outlook { config, batch_per_rank, shaped, data: Arc::new(data), max_length, assumed: assumed.is_some() })
    }

    /// The same data for a configuration that trains other weights.
    ///
    /// # Errors
    /// Exit 2 for patterns that match nothing, or leave nothing to train.
    pub fn freezing(&self, config: Config) -> Result<Self> {
        let shaped = session::declare(&config)?.0.with_head(&self.data.head, &config.model.freeze)?;
        let Outlook { batch_per_rank, max_length, assumed, .. } = *self;
        Ok(Outlook { config, batch_per_rank, shaped, data: Arc::clone(&self.data), max_length, assumed })
    }

    /// Examples of a step of so many ranks.
    pub fn global_batch(&self, ranks: usize) -> usize {
        self.batch_per_rank.map_or(self.config.train.global_batch_size, |each| each * ranks)
    }

    /// The configuration of a run on so many ranks.
    pub fn on(&self, ranks: usize) -> Config {
        let mut config = self.config.clone();
        config.train.global_batch_size = self.global_batch(ranks);
        config
    }

    /// The order of the data on so many ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self, ranks: usize) -> Result<Sampler> {
        let (lengths, tokens) = (self.data.train.dataset.lengths(), settings::micro_batch_tokens(&self.config));
        Sampler::new(self.config.seed, lengths, self.global_batch(ranks), ranks, tokens)
    }

    /// Sets the tokens at a time that `"auto"` stands for here.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn choose_tokens(&mut self, place: &Place) -> Result<()> {
        self.config.train.micro_batch_tokens = self.tokens(&self.on(place.ranks), place)?;
        Ok(())
    }

    /// The tokens at a time of a configuration, of `"auto"` the most that fit (without a limit: as if all did); where nothing
    /// fits, the fewest.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn tokens(&self, config: &Config, place: &Place) -> Result<MicroBatchTokens> {
        let Place { ranks, cpu, limit } = *place;
        let mut config = config.clone();
        let open = Open::of(&config, None, cpu)?;
        if self.assumed {
            // All steps are alike.
            config.train.max_steps = Some(1);
        }
        let limit = limit.unwrap_or(f64::INFINITY);
        let tokens = match open.held() {
            Some(held) => held.micro_batch_tokens,
            None => match open.fit(&config, &self.shaped, &self.data, (ranks, cpu), limit)? {
                Fit::Held(held, _) => held.micro_batch_tokens,
                Fit::Nothing(_) => open.least(),
            },
        };
        Ok(MicroBatchTokens::Tokens(tokens))
    }

    /// Steps of the run on so many ranks, and of an epoch.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn steps(&self, ranks: usize) -> Result<(u64, u64)> {
        let per_epoch = self.sampler(ranks)?.steps_per_epoch();
        Ok((settings::total_steps(&self.config, per_epoch), per_epoch))
    }

    /// How long the training examples are, and what padding them would have cost.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn lengths(&self, ranks: usize) -> Result<(Lengths, Padding)> {
        let (dataset, target) = (&self.data.train.dataset, self.config.task.max_target_length);
        let max = [self.max_length, target.unwrap_or(MAX_TARGET_LENGTH)];
        Ok((Lengths::of(&dataset.lengths()), Padding::of(dataset, &self.sampler(ranks)?, max)))
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
                let mut config = self.on(ranks);
                config.parallel.precision = precision;
                config.parallel.recompute = recompute;
                if precision == Precision::Fp32 {
                    config.parallel.reduce_dtype = Precision::Fp32;
                }
                let setup = |zero| memory_need::setup(&config, model.stages(), zero, cpu);
                let load = self.load(config.clone(), &layout, &setup(Zero::ALL[0]), ranks)?;
                for zero in Zero::ALL {
                    let setup = setup(zero);
                    ways.push(Way {
                        zero,
                        precision,
                        recompute,
                        need: memory::estimate(model, &layout, &setup, &load),
                        largest_group: timeline::largest_group(&layout, &setup),
                        configured: precision == own.precision
                            && recompute == own.recompute
                            && own.zero_stage == ZeroStage::Stage(zero.stage()),
                    });
                }
            }
        }
        Ok(ways)
    }

    /// The ZeRO stage of the run: the one that is set, or of "auto" the lowest that fits, as [`memory_need::choose`] has it;
    /// where none does, the last. Marks the way that a run takes, if it takes any.
    pub fn choose(&self, ways: &mut [Way], limit: Option<f64>) -> Zero {
        let own = &self.config.parallel;
        if let ZeroStage::Stage(stage) = own.zero_stage {
            return Zero::new(stage).unwrap_or(Zero::ALL[0]);
        }
        let fits = |way: &Way| limit.is_none_or(|limit| way.need.total <= limit);
        let mut alike = ways.iter_mut().filter(|way| way.precision == own.precision && way.recompute == own.recompute);
        alike.find(|way| fits(way)).map_or(Zero::ALL[3], |way| {
            way.configured = true;
            way.zero
        })
    }

    pub(super) fn load(&self, mut config: Config, layout: &Layout, setup: &Setup, ranks: usize) -> Result<Load> {
        if self.assumed {
            // All steps are alike.
            config.train.max_steps = Some(1);
        }
        memory_need::load(&config, &self.shaped.model, layout, setup, &self.data, ranks)
    }

    /// The step with the largest micro-batch of a rank among so many, from 0, and what a rank needs at this ZeRO stage.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn busiest(&self, ranks: usize, zero: Zero, cpu: bool) -> Result<(u64, MemoryEstimate)> {
        let (model, setup) = (&self.shaped.model, self.setup(zero, cpu));
        let layout = Layout::new(&self.shaped.specs, ranks);
        let load = self.load(self.on(ranks), &layout, &setup, ranks)?;
        Ok((load.step, memory::estimate(model, &layout, &setup, &load)))
    }

    /// What the run writes on so many ranks, where every evaluation finds a new best.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn storage(&self, ranks: usize) -> Result<Storage> {
        Ok(settings::storage(&self.config, &self.shaped.specs, self.steps(ranks)?))
    }
}

/// The longest sequence of an assumed example, if the model takes it.
fn check_length(config: &Config, declared: &Declared, length: usize) -> Result<usize> {
    let longest = if config.task.kind == TaskKind::Seq2seq { length - length / 2 } else { length };
    if let Some(max) = config.data.max_length.filter(|&max| max < longest) {
        return Err(Error::input(format!(
            "--assume-length {length}: a run cuts to data.max_length = {max}; set it to {longest}, or assume less"
        )));
    }
    declared.max_length(Some(longest), None).map_err(|e| e.context(format!("--assume-length {length}")))
}

/// Token ids as texts have them: the k-th most frequent as often as 1 / k (Zipf's law).
fn zipf(random: &mut SplitMix64, vocab_size: usize) -> u32 {
    let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    ((vocab_size as f64 + 1.0).powf(uniform) as u32 - 1).min(vocab_size as u32 - 1)
}

/// Examples of one length, as the task reads them: of seq2seq half of the tokens are the target's.
fn assume(config: &Config, assumed: Assumed, vocab_size: usize) -> Result<Data> {
    let Assumed { length, examples } = assumed;
    let kind = config.task.kind;
    let mut random = SplitMix64::keyed(&[config.seed]);
    let example = |_| {
        let ids = (0..length).map(|_| zipf(&mut random, vocab_size)).collect();
        let mut example = Example::single(ids, vec![0; length], Label::None);
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
        vocab_size,
        segments: 1,
        remarks: Vec::new(),
        references: Value::Null,
    };
    let head = reading::head(&config.task, &facts, &config.data.train)?;
    let different = examples.min(DIFFERENT.div_ceil(length));
    let dataset = Dataset::new((0..different).map(example), collation, [0; 32]).repeated(examples);
    Ok(Data { train: Prepared { dataset, facts, cache: CacheUse::Built }, eval: None, head })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assumed_tokens_are_as_many_different_ones_as_a_text_has() {
        let mut random = SplitMix64::keyed(&[1]);
        let mut ids: Vec<u32> = (0..16_384).map(|_| zipf(&mut random, 128_256)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!((5_000..9_000).contains(&ids.len()) && *ids.last().unwrap() < 128_256, "{}", ids.len());
        assert_eq!(zipf(&mut random, 1), 0);
    }
}
