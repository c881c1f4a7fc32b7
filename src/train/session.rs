//! Opens a run: checks the configuration on all ranks, prepares the data, loads the model.

use crate::comm::Collective;
use crate::config::{Config, ModelInit, TaskKind};
use crate::data::{CacheUse, Prepared, Sampler, cache, prepare};
use crate::error::{Context, Error, Result};
use crate::ffi::device::allow_tf32;
use crate::models::Role;
use crate::models::registry::{self, DropoutOverrides};
use crate::observe::progress::Phase;
use crate::tasks::{Head, labels};
use crate::text::parallel;
use crate::text::tokenizer::Tokenizer;
use crate::train::dry_run;
use crate::train::generate::ending_answers;
use crate::train::memory_fit::{self, MemoryPlan};
use crate::train::model_loading::{Declared, LoadOptions, Loaded, Source};
use crate::train::rank_consistency;
use crate::train::reading::{self, Purpose, Reading};
use crate::train::resumed::Resumed;
use crate::train::settings;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tch::Device;

/// The datasets of a run, and the head that they need.
pub struct Data {
    pub train: Prepared,
    pub eval: Option<Prepared>,
    pub head: Head,
}

/// A run, ready to train.
pub struct Session {
    pub config: Config,
    pub comm: Arc<dyn Collective>,
    pub loaded: Loaded,
    pub data: Data,
    pub max_length: usize,
    /// Maximum number of tokens in a micro-batch.
    pub micro_batch_tokens: usize,
    /// Whether all weights are newly initialized.
    pub starts_at_random: bool,
    /// The generation_config.json for the trained model, if not that of the original model.
    pub generation: Option<Value>,
}

impl Session {
    /// Reads the model and the data. A checkpoint to resume from replaces `model.path` as the source of the weights,
    /// and fixes the order of the labels.
    ///
    /// All ranks call it; a failure on one rank is an error on all.
    ///
    /// # Errors
    /// Exit 2 for an invalid model folder or invalid data.
    pub fn open(config: Config, comm: Arc<dyn Collective>, resumed: Option<&Resumed>) -> Result<Self> {
        allow_tf32(settings::tf32(&config, comm.device()))?;
        let known_labels = resumed.and_then(|resumed| resumed.state.labels.clone());
        let open = || -> Result<(Declared, usize)> {
            let declared = declare(&config)?;
            // Report a missing tokenizer as an error of the model folder, not of the data.
            Tokenizer::fingerprint_of(&config.model.path)?;
            Ok(declared)
        };
        let (mut declared, max_length) = comm.agree(open(), "reading the model configuration")?;
        let mut data = one_per_host_first(comm.as_ref(), "preparing the data", || {
            let data = read_data(&config, max_length, known_labels.clone())?;
            declared.check_vocabulary(&data.train)?;
            data.eval.as_ref().map_or(Ok(()), |eval| declared.check_vocabulary(eval))?;
            Ok(data)
        })?;
        let ends = (config.task.kind == TaskKind::Chat).then(|| ending_answers(&config.model.path)).transpose();
        let ends = comm.agree(ends, "reading the chat template")?.flatten();
        let generation = ends.map(|(file, end)| {
            data.train.facts.remarks.push(format!(
                "token {end} ends an answer in the chat template: added to eos_token_id in generation_config.json of \
                 the trained model"
            ));
            file
        });
        if let Some(resumed) = resumed {
            resumed.from.clone_into(&mut declared.folder);
        }
        let shaped =
            comm.agree(declared.with_head(&data.head, &config.model.freeze), "adding the head to the model")?;
        let before = resumed.map(|resumed| resumed.micro_batch_tokens(comm.world())).transpose();
        let before = comm.agree(before, "reading the checkpoint's settings")?.flatten();
        let chosen = memory_fit::choose(&config, &shaped, &data, comm.as_ref(), before);
        let MemoryPlan { zero, micro_batch_tokens } = comm.agree(chosen, "choosing settings that fit in memory")?;
        let options = LoadOptions {
            kind: settings::kind(config.parallel.precision),
            zero,
            trains: true,
            seed: config.seed,
            from: match (resumed, config.model.init) {
                (Some(_), _) => Source::Checkpoint,
                (None, ModelInit::Random) => Source::Random,
                (None, ModelInit::Pretrained) => Source::Folder,
            },
        };
        let loaded = comm.agree(shaped.load(&comm, &options), "loading the model")?;
        let starts_at_random = options.from == Source::Random;
        let mut session =
            Session { config, comm, loaded, data, max_length, micro_batch_tokens, starts_at_random, generation };
        rank_consistency::check(&session, resumed.map_or(0, |resumed| resumed.state.global_step))?;
        let fixed = session.config.train.micro_batch_tokens.given().or(before).is_some();
        if session.comm.device() != Device::Cpu && !fixed {
            session.micro_batch_tokens = dry_run::max_tokens(&session)?;
        }
        Ok(session)
    }

    /// Returns the sampler: the order of the training data and its split over the ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self) -> Result<Sampler> {
        let (batch, lengths) = (self.config.train.global_batch_size, self.data.train.dataset.lengths());
        Sampler::new(self.config.seed, lengths, batch, self.comm.world(), self.micro_batch_tokens)
    }
}

/// Runs `work` on the first rank of every host before the other ranks, which then find its result in the cache.
pub fn one_per_host_first<T>(comm: &dyn Collective, what: &str, work: impl Fn() -> Result<T>) -> Result<T> {
    let first = if comm.local_rank() == 0 { work().map(Some) } else { Ok(None) };
    let first = comm.agree(first, what)?;
    let mine = first.map_or_else(work, Ok);
    comm.agree(mine, what)
}

/// Reads the `config.json` of the model; returns the model without weights, and the maximum sequence length in tokens.
///
/// # Errors
/// Exit 2: an unsupported architecture, or one without the head that the task needs.
pub fn declare(config: &Config) -> Result<(Declared, usize)> {
    let folder = &config.model.path;
    let dropout = DropoutOverrides {
        hidden: config.model.hidden_dropout_prob,
        attention: config.model.attention_probs_dropout_prob,
        classifier: config.model.classifier_dropout,
    };
    let declared = Declared::read(folder, registry::read_config(folder)?, dropout, reading::role(&config.task))?;
    let max_length = declared.max_length(config.data.max_length, reading::usual_length(config.task.kind))?;
    Ok((declared, max_length))
}

/// Shows the progress of tokenizing a file.
pub fn tokenizing(path: &Path) -> Phase {
    let before = parallel::counts();
    Phase::watch(format!("tokenizing {}", path.display()), "texts", move || {
        let now = parallel::counts();
        (now.0 - before.0, now.1 - before.1)
    })
}

/// Reads, checks and tokenizes the data of a run, or loads it from the token cache.
///
/// # Errors
/// Exit 2 for invalid data.
pub fn read_data(config: &Config, max_length: usize, known_labels: Option<Vec<String>>) -> Result<Data> {
    let folder = &config.model.path;
    let prepare_file = |path: &Path, key: &str, purpose: Purpose, labels: Option<Vec<String>>| {
        let (task, data, seed) = (&config.task, &config.data, config.seed);
        let reading = Reading { task, data, folder, max_length, purpose, labels, seed };
        let encoder = reading.encoder(path, key)?;
        let _phase = tokenizing(path);
        prepare(encoder.as_ref(), folder, cache::folder(config.data.cache_dir.as_deref()).as_deref()).context(key)
    };
    let read_train = |labels| prepare_file(&config.data.train, "data.train", Purpose::Train, labels);
    let given = config.task.labels.clone();
    let mut train = read_train(given.clone())?;
    // A model that was fine-tuned on the same labels keeps their order, which its head was trained with.
    if let (None, Some(found)) = (given, &train.facts.labels) {
        let json = registry::read_config(folder)?;
        let own = labels::of_config(&json).filter(|_| Role::of_config(&json) == Some(reading::role(&config.task)));
        let same = own.filter(|own| own != found && sorted(own) == sorted(found));
        if let Some(own) = same {
            train = read_train(Some(own))?;
        }
    }
    // The head of a checkpoint fixes the order of its labels.
    if known_labels.is_some() && train.facts.labels != known_labels {
        train = read_train(known_labels)?;
    }
    let head = reading::head(&config.task, &train.facts, &config.data.train)?;
    let labels = head.labels().map(<[String]>::to_vec);
    if let Some(why) = labels.as_ref().and_then(|labels| config.metric_of_two_labels(labels.len())) {
        return Err(Error::input(format!("train.metric_for_best_model: {why} in the data")));
    }
    let eval = config.data.eval.as_ref();
    let eval = eval.map(|path| prepare_file(path, "data.eval", Purpose::Evaluate, labels)).transpose()?;
    Ok(Data { train, eval, head })
}

fn sorted(labels: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = labels.iter().collect();
    sorted.sort();
    sorted
}

/// Describes whether the tokens of a dataset came from the cache.
pub fn cache_word(prepared: &Prepared) -> &'static str {
    match prepared.cache {
        CacheUse::Hit => "from the token cache",
        CacheUse::Built => "tokenized now",
    }
}
