//! A run to plan, not to execute: the model without weights, the data or assumptions about it, and their requirements.

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
use crate::train::lora::Lora;
use crate::train::memory_fit::{Candidates, Fit};
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, Shaped};
use crate::train::reading::{self, Data};
use crate::train::{memory_fit, session, settings, teacher};
use serde_json::Value;
use std::sync::Arc;

/// Assumptions about data that does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumed {
    /// Length of every example in tokens.
    pub length: usize,
    pub examples: usize,
}

/// Number of generated tokens before the data repeats: enough to cover most of a vocabulary.
const DISTINCT_TOKENS: usize = 1 << 20;

/// The hardware of a planned run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hardware {
    pub ranks: usize,
    /// Whether ranks compute on a CPU.
    pub cpu: bool,
    /// Bytes available to a rank, if known.
    pub limit: Option<f64>,
}

impl Hardware {
    /// Whether `bytes` fit; always true if no limit is known.
    pub fn fits(&self, bytes: f64) -> bool {
        self.limit.is_none_or(|limit| bytes <= limit)
    }
}

/// The model and the data of a planned run.
pub struct PlannedRun {
    /// As written; [`PlannedRun::on`] returns it for a number of ranks.
    pub config: Config,
    /// Examples per rank, if the global batch grows with the number of ranks.
    pub batch_per_rank: Option<usize>,
    pub ranks_per_node: usize,
    pub shaped: Shaped,
    pub data: Arc<Data>,
    pub max_length: usize,
    /// Whether the data is assumed; there is no evaluation data then.
    pub assumed: bool,
}

/// One combination of ZeRO stage, precision and activation checkpointing, with its memory requirement.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    pub zero: Zero,
    pub precision: Precision,
    pub recompute: Recompute,
    pub need: MemoryEstimate,
    /// Size in bytes of the largest group of collectives.
    pub largest_group: f64,
    /// Whether the run uses it; for "auto", [`PlannedRun::choose`] decides.
    pub configured: bool,
}

impl PlannedRun {
    /// Reads the model's configuration and the data, but no weights.
    ///
    /// # Errors
    /// Exit 2 for an invalid model folder or invalid data.
    pub fn open(
        config: Config,
        batch_per_rank: Option<usize>,
        ranks_per_node: usize,
        assumed: Option<Assumed>,
    ) -> Result<Self> {
        let (declared, mut max_length) = session::declare(&config)?;
        let data = match assumed {
            Some(assumed) => {
                max_length = max_length.max(check_length(&config, &declared, assumed.length)?);
                assume(&config, assumed, declared.vocab_size())?
            }
            None => session::read_data(&config, max_length, config.task.labels.clone())?,
        };
        declared.check_vocabulary(&data.train)?;
        let shaped = shaped(declared, &config, &data, assumed.is_some())?;
        let (data, assumed) = (Arc::new(data), assumed.is_some());
        Ok(PlannedRun { config, batch_per_rank, ranks_per_node, shaped, data, max_length, assumed })
    }

    /// Returns the same run for a configuration with another `model.freeze`.
    ///
    /// # Errors
    /// Exit 2 for patterns that match nothing or leave nothing to train.
    pub fn freezing(&self, config: Config) -> Result<Self> {
        let shaped = shaped(session::declare(&config)?.0, &config, &self.data, self.assumed)?;
        let PlannedRun { batch_per_rank, ranks_per_node, max_length, assumed, .. } = *self;
        let data = Arc::clone(&self.data);
        Ok(PlannedRun { config, batch_per_rank, ranks_per_node, shaped, data, max_length, assumed })
    }

    /// Returns the number of shards of a unit on `ranks` ranks.
    pub fn shards(&self, config: &Config, ranks: usize) -> usize {
        settings::shards(config, ranks, self.ranks_per_node)
    }

    pub(super) fn layout(&self, config: &Config, ranks: usize) -> Layout {
        Layout::new(&self.shaped.specs, self.shards(config, ranks))
    }

    /// Returns the global batch size in examples on `ranks` ranks.
    pub fn global_batch(&self, ranks: usize) -> usize {
        self.batch_per_rank.map_or(self.config.train.global_batch_size, |each| each * ranks)
    }

    /// Returns the configuration of a run on `ranks` ranks.
    pub fn on(&self, ranks: usize) -> Config {
        let mut config = self.config.clone();
        config.train.global_batch_size = self.global_batch(ranks);
        config
    }

    /// Returns the sampler for `ranks` ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self, ranks: usize) -> Result<Sampler> {
        let (dataset, tokens) = (&self.data.train.dataset, settings::micro_batch_tokens(&self.config));
        Sampler::new(self.config.seed, dataset, self.global_batch(ranks), ranks, tokens)
    }

    /// Resolves `micro_batch_tokens = "auto"` and `recompute = "auto"`.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn choose_auto(&mut self, hardware: &Hardware) -> Result<()> {
        let resolved = self.resolved(self.on(hardware.ranks), hardware)?;
        self.config.train.micro_batch_tokens = resolved.train.micro_batch_tokens;
        self.config.parallel.recompute = resolved.parallel.recompute;
        Ok(())
    }

    /// Returns a configuration with micro-batch tokens and activation checkpointing as a run chooses them for `"auto"`
    /// (everything fits without a limit), or with the least memory if nothing fits.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn resolved(&self, wanted: Config, hardware: &Hardware) -> Result<Config> {
        let Hardware { ranks, cpu, limit } = *hardware;
        let mut config = wanted.clone();
        let candidates = Candidates::of(&config, None, cpu)?;
        if self.assumed {
            // All steps are the same.
            config.train.max_steps = Some(1);
        }
        let limit = limit.unwrap_or(f64::INFINITY);
        let place = memory_fit::Ranks { world: ranks, per_host: self.ranks_per_node, cpu };
        let plan = match candidates.only_choice() {
            Some(plan) => plan,
            None => match candidates.fit(&config, &self.shaped, &self.data, place, limit)? {
                Fit::Chosen(plan, _) => plan,
                Fit::Nothing(_) => candidates.least(),
            },
        };
        let mut resolved = wanted;
        resolved.train.micro_batch_tokens = MicroBatchTokens::Tokens(plan.micro_batch_tokens);
        resolved.parallel.recompute = plan.recompute;
        Ok(resolved)
    }

    /// Returns the number of steps of the run on `ranks` ranks, and of an epoch.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn steps(&self, ranks: usize) -> Result<(u64, u64)> {
        let per_epoch = self.sampler(ranks)?.steps_per_epoch();
        Ok((settings::total_steps(&self.config, per_epoch), per_epoch))
    }

    /// Returns statistics of the lengths of the training examples, and the cost of padding them.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn lengths(&self, ranks: usize) -> Result<(Lengths, Padding)> {
        let dataset = &self.data.train.dataset;
        let max = [self.max_length, self.config.task.target_length().unwrap_or(0)];
        let (sampler, lengths) = (self.sampler(ranks)?, dataset.lengths());
        // Sampling by class or by source reads some examples several times.
        let read: Vec<u32> = sampler.epoch_order(0).into_iter().map(|i| lengths[i as usize]).collect();
        Ok((Lengths::of(&read), Padding::of(dataset, &sampler, max)))
    }

    /// Returns the number of parameters: total and trainable.
    pub fn parameters(&self) -> (u64, u64) {
        let count = |trained: bool| {
            let counted = self.shaped.specs.iter().filter(|spec| spec.trainable || !trained);
            counted.map(|spec| spec.numel() as u64).sum()
        };
        (count(false), count(true))
    }

    /// Returns the settings that determine the memory of a rank, with this ZeRO stage.
    pub fn setup(&self, zero: Zero, cpu: bool) -> Setup {
        memory_fit::setup(&self.config, (&self.shaped.model, &self.shaped.specs), zero, cpu)
    }

    /// Returns a rank's memory by ZeRO stage, in fp32 and half precision, with and without activation checkpointing.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn variants(&self, ranks: usize, cpu: bool) -> Result<Vec<Variant>> {
        let (model, own) = (&self.shaped.model, &self.config.parallel);
        let layout = self.layout(&self.config, ranks);
        let half = if own.precision == Precision::Fp16 { Precision::Fp16 } else { Precision::Bf16 };
        let mut recomputes = vec![Recompute::None, Recompute::All];
        if !recomputes.contains(&own.recompute) {
            recomputes.insert(1, own.recompute);
        }
        let mut variants = Vec::new();
        for precision in [Precision::Fp32, half] {
            for &recompute in &recomputes {
                let mut config = self.on(ranks);
                config.parallel.precision = precision;
                config.parallel.recompute = recompute;
                if precision == Precision::Fp32 {
                    config.parallel.reduce_dtype = Precision::Fp32;
                }
                let setup = |zero| memory_fit::setup(&config, (model, &self.shaped.specs), zero, cpu);
                let load = self.load(config.clone(), &layout, &setup(Zero::ALL[0]), ranks)?;
                for zero in Zero::ALL {
                    let setup = setup(zero);
                    variants.push(Variant {
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
        Ok(variants)
    }

    /// Returns the ZeRO stage of the run: the configured one, or for "auto" the lowest that fits, like
    /// [`memory_fit::choose`], or the last if none fits. Marks the variant that the run uses, if there is one.
    pub fn choose(&self, variants: &mut [Variant], limit: Option<f64>) -> Zero {
        let own = &self.config.parallel;
        if let ZeroStage::Stage(stage) = own.zero_stage {
            return Zero::new(stage).unwrap_or(Zero::ALL[0]);
        }
        let fits = |variant: &Variant| limit.is_none_or(|limit| variant.need.total <= limit);
        let mut alike = variants
            .iter_mut()
            .filter(|variant| variant.precision == own.precision && variant.recompute == own.recompute);
        alike.find(|variant| fits(variant)).map_or(Zero::ALL[3], |variant| {
            variant.configured = true;
            variant.zero
        })
    }

    pub(super) fn load(&self, mut config: Config, layout: &Layout, setup: &Setup, ranks: usize) -> Result<Load> {
        if self.assumed {
            // All steps are the same.
            config.train.max_steps = Some(1);
        }
        let models = (&self.shaped.model, self.shaped.teacher.as_deref());
        memory_fit::load(&config, models, layout, setup, &self.data, ranks)
    }

    /// Returns the step with the largest micro-batch (counted from 0), and the memory of a rank at this ZeRO stage.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn busiest(&self, ranks: usize, zero: Zero, cpu: bool) -> Result<(u64, MemoryEstimate)> {
        let (model, setup) = (&self.shaped.model, self.setup(zero, cpu));
        let layout = self.layout(&self.config, ranks);
        let load = self.load(self.on(ranks), &layout, &setup, ranks)?;
        Ok((load.step, memory::estimate(model, &layout, &setup, &load)))
    }

    /// Returns the disk space that the run needs on `ranks` ranks if every evaluation finds a new best model.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn storage(&self, ranks: usize) -> Result<Storage> {
        Ok(settings::storage(&self.config, &self.shaped.specs, &self.shaped.names, self.steps(ranks)?))
    }
}

/// Adds the head, adapters and the teacher to a declared model, and chooses what is trained.
fn shaped(declared: Declared, config: &Config, data: &Data, assumed: bool) -> Result<Shaped> {
    let folder = ModelFolder::of(config)?;
    let lora = Lora::of_run(&config.lora, &folder, None)?;
    let shaped = declared.with_head(&data.head).with_adapters(lora.as_ref())?;
    let shaped = shaped.for_training(config, data.train.dataset.len())?;
    let teacher = teacher::declare(config, data, &folder, assumed)?.map(Box::new);
    Ok(Shaped { teacher, ..shaped })
}

/// Returns the length of the longest sequence of an assumed example, if the model supports it.
fn check_length(config: &Config, declared: &Declared, length: usize) -> Result<usize> {
    let halves = matches!(config.task.kind, TaskKind::Seq2seq | TaskKind::Embedding);
    let longest = if halves { length - length / 2 } else { length };
    if let Some(max) = config.data.max_length.filter(|&max| max < longest) {
        return Err(Error::input(format!(
            "--assume-length {length}: a run truncates to data.max_length = {max}; set it to {longest}, or assume less"
        )));
    }
    declared.max_length(Some(longest), None).map_err(|e| e.context(format!("--assume-length {length}")))
}

/// Samples a token id as natural text has them: the k-th most frequent with probability proportional to 1 / k (Zipf).
fn zipf(random: &mut SplitMix64, vocab_size: usize) -> u32 {
    let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    ((vocab_size as f64 + 1.0).powf(uniform) as u32 - 1).min(vocab_size as u32 - 1)
}

/// Generates examples of one length in the format of the task; with two texts each has half of the tokens.
fn assume(config: &Config, assumed: Assumed, vocab_size: usize) -> Result<Data> {
    let Assumed { length, examples } = assumed;
    let kind = config.task.kind;
    let mut random = SplitMix64::keyed(&[config.seed]);
    let example = |_| {
        let ids = (0..length).map(|_| zipf(&mut random, vocab_size)).collect();
        let mut example = Example::single(ids, vec![0; length], Label::None);
        match kind {
            TaskKind::Seq2seq | TaskKind::Embedding => {
                example.lengths = vec![length.div_ceil(2) as u32, (length / 2) as u32];
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
        // A classification head has two labels by default.
        labels: config.task.labels.clone().or_else(|| Some(vec!["0".into(), "1".into()])),
        skipped: 0,
        skipped_reasons: Vec::new(),
        truncated: 0,
        vocab_size,
        segments: 1,
        remarks: Vec::new(),
        references: Value::Null,
    };
    let head = reading::head(&config.task, &facts, &config.data.train, &ModelFolder::of(config)?.path)?;
    let distinct = examples.min(DISTINCT_TOKENS.div_ceil(length));
    let dataset = Dataset::new((0..distinct).map(example), collation, [0; 32]).repeated(examples);
    Ok(Data {
        train: Prepared { dataset, facts, cache: CacheUse::Built },
        stream: None,
        eval: None,
        eval_sets: Vec::new(),
        head,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assumed_tokens_have_the_vocabulary_of_natural_text() {
        let mut random = SplitMix64::keyed(&[1]);
        let mut ids: Vec<u32> = (0..16_384).map(|_| zipf(&mut random, 128_256)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!((5_000..9_000).contains(&ids.len()) && *ids.last().unwrap() < 128_256, "{}", ids.len());
        assert_eq!(zipf(&mut random, 1), 0);
    }
}
