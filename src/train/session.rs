//! Opens a run: checks the configuration on all ranks, prepares the data, loads the model.

use crate::comm::{Collective, Op, host_pool};
use crate::config::{Config, DataFiles, Recompute};
use crate::data::{CacheUse, Prepared, Sampler, cache, prepare};
use crate::error::{Context, Error, Result};
use crate::machine::host_name;
use crate::models::Role;
use crate::models::family::DropoutOverrides;
use crate::observe::progress::Phase;
use crate::parallel::Groups;
use crate::tasks::labels;
use crate::text::files::Files;
use crate::text::parallel;
use crate::text::part::Part;
use crate::train::augmentation::augmented;
use crate::train::mixture::mix;
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, Loaded};
use crate::train::objective::{draw_balanced, objective};
use crate::train::reading::{self, Data, Purpose, Reading};
use crate::train::shards::Shards;
use crate::train::sources::EVAL_SETS;
use crate::train::streaming;
use crate::train::teacher::Teacher;
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run, ready to train.
pub struct Session {
    pub config: Config,
    pub comm: Arc<dyn Collective>,
    pub groups: Groups,
    pub folder: ModelFolder,
    pub loaded: Loaded,
    pub teacher: Option<Teacher>,
    pub data: Data,
    pub max_length: usize,
    pub micro_batch_tokens: usize,
    /// As configured, or as chosen for `auto`.
    pub recompute: Recompute,
    pub starts_at_random: bool,
    /// The generation_config.json for the trained model, if not that of the original model.
    pub generation: Option<Value>,
}

impl Session {
    /// Returns the sampler: the order of the training data and its split over the ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self) -> Result<Sampler> {
        let (batch, dataset) = (self.config.train.global_batch_size, &self.data.train.dataset);
        Sampler::new(self.config.seed, dataset, batch, self.comm.world(), self.micro_batch_tokens)
    }
}

/// Runs `work` on the first rank of every host before the other ranks, which then find its result in the cache. The
/// first rank tokenizes on the cores of all ranks of its host.
pub fn one_per_host_first<T>(comm: &dyn Collective, what: &str, work: impl Fn() -> Result<T>) -> Result<T> {
    let pool = host_pool::for_first_rank(comm)?;
    let first = if comm.local_rank() == 0 { parallel::with_pool(pool, || work().map(Some)) } else { Ok(None) };
    let first = agree_on_files(comm, first, comm.local_rank() == 0, what)?;
    let mine = first.map_or_else(work, Ok);
    agree_on_files(comm, mine, true, what)
}

/// Agrees on a result that comes from files: as `Collective::agree`, and an error of some of
/// the ranks that `ran` names rank and host, since another host may have other files. All ranks call it.
///
/// # Errors
/// That of the first rank with an error.
pub fn agree_on_files<T>(comm: &dyn Collective, result: Result<T>, ran: bool, what: &str) -> Result<T> {
    let mut counts = [f64::from(u8::from(result.is_err())), f64::from(u8::from(ran && result.is_ok()))];
    if comm.world() > 1 {
        comm.all_reduce_f64(&mut counts, Op::Sum, what)?;
    }
    let [failed, succeeded] = counts;
    let place = || format!("rank {} on {}", comm.rank(), host_name());
    comm.agree(if failed > 0.0 && succeeded > 0.0 { result.context(place()) } else { result }, what)
}

/// Reads the `config.json` of the model; returns the model without weights, and the maximum sequence length in tokens.
///
/// # Errors
/// Exit 2: an unsupported architecture, or one without the head that the task needs.
pub fn declare(config: &Config) -> Result<(Declared, usize)> {
    let folder = ModelFolder::of(config)?;
    let dropout = DropoutOverrides {
        hidden: config.model.hidden_dropout_prob,
        attention: config.model.attention_probs_dropout_prob,
        classifier: config.model.classifier_dropout,
    };
    let layers = config.model.layers.as_deref();
    if layers.is_some() && folder.adapter.is_some() {
        return Err(Error::input(format!(
            "model.layers: {} is an adapter, whose layers belong to those of its base model: merge it first (trainer \
             merge)",
            folder.path.display()
        )));
    }
    let role = reading::role(&config.task);
    let declared = Declared::of_layers(&folder.base, folder.read_config()?, dropout, role, layers)?;
    let usual = reading::usual_length(config.task.kind, &folder.path)?;
    let max_length = declared.max_length(config.data.max_length, usual)?;
    config.task.target_length().map(|longest| declared.check_targets(longest)).transpose()?;
    Ok((declared, max_length))
}

/// Shows the progress of tokenizing a file.
pub fn tokenizing(files: impl std::fmt::Display) -> Phase {
    let before = parallel::counts();
    Phase::watch(format!("tokenizing {files}"), "texts", move || {
        let now = parallel::counts();
        (now.0 - before.0, now.1 - before.1)
    })
}

/// Reads, checks and tokenizes the data of a run, or loads it from the token cache.
///
/// # Errors
/// Exit 2 for invalid data.
pub fn read_data(config: &Config, max_length: usize, known_labels: Option<Vec<String>>) -> Result<Data> {
    let model = ModelFolder::of(config)?;
    let folder = model.tokenizer();
    let part = reading::trained_part(config);
    let prepare_file = |files: &DataFiles, key: &str, purpose: Purpose, labels: Option<Vec<String>>, part| {
        let (task, data, seed) = (&config.task, &config.data, config.seed);
        let words = purpose == Purpose::Train && config.augment.is_on();
        let reading = Reading { task, data, folder, max_length, purpose, labels, seed, part, words };
        let encoder =
            if purpose == Purpose::Train { reading.training_encoder()? } else { reading.encoder(files, key)? };
        let _phase = tokenizing(files);
        prepare(encoder.as_ref(), folder, cache::folder(config.data.cache_dir.as_deref()).as_deref()).context(key)
    };
    let key = if config.data.sources.is_empty() { "data.train" } else { "data.sources" };
    let shards = |labels: Option<Vec<String>>| Shards::open(config, folder, max_length, labels).map(Arc::new);
    let read_train = |labels: Option<Vec<String>>| match config.data.streaming {
        true => {
            let _phase = tokenizing(&config.data.train);
            streaming::sample(&shards(labels)?)
        }
        false => prepare_file(&config.data.train, key, Purpose::Train, labels, part),
    };
    let given = config.task.labels.clone();
    let mut train = read_train(given.clone())?;
    // A model that was fine-tuned on the same labels keeps their order, which its head was trained with.
    if let (None, Some(found)) = (given, &train.facts.labels) {
        let json = model.read_config()?;
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
    let head = reading::head(&config.task, &train.facts, &config.data.train, &model.path)?;
    let labels = head.labels().map(<[String]>::to_vec);
    if let Some(why) = labels.as_ref().and_then(|labels| config.metric_of_two_labels(labels.len())) {
        return Err(Error::input(format!("train.metric_for_best_model: {why} in the data")));
    }
    let dataset = train.dataset;
    let objective = objective(config, &dataset, labels.as_deref())?;
    let train = Prepared { dataset: dataset.with_objective(objective), ..train };
    let train = mix(config, draw_balanced(config, train))?;
    let train = if config.augment.is_on() { augmented(config, train, folder, max_length)? } else { train };
    let held_part = part.map(Part::held_out);
    let held_out = part.map(|_| (&config.data.train, "data.train"));
    let eval = config.data.eval.as_ref().map(|files| (files, "data.eval")).or(held_out);
    let read = |(files, key)| prepare_file(files, key, Purpose::Evaluate, labels.clone(), held_part);
    let mut eval = eval.map(read).transpose()?;
    if let (Some(eval), Some(files), true) = (&mut eval, &config.data.eval, config.data.sources.is_empty()) {
        eval.facts.remarks.extend(in_both(files, &config.data.train)?);
    }
    let read = |(name, files): (&str, &DataFiles)| {
        let set = prepare_file(files, EVAL_SETS, Purpose::Evaluate, labels.clone(), None);
        Ok((name.to_owned(), set.context(name)?))
    };
    let eval_sets = config.data.eval_sets.iter().map(read).collect::<Result<_>>()?;
    let stream = config.data.streaming.then(|| shards(train.facts.labels.clone())).transpose()?;
    Ok(Data { train, stream, eval, eval_sets, head })
}

/// Returns a remark on a file that is both evaluation and training data.
fn in_both(eval: &DataFiles, train: &DataFiles) -> Result<Option<String>> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    let [eval, train] = [Files::find(eval.paths())?, Files::find(train.paths())?];
    let trained: HashSet<PathBuf> = train.iter().map(real).collect();
    let both = eval.iter().find(|path| trained.contains(&real(path)));
    Ok(both.map(|path| format!("{} is training data too", path.file_name().unwrap_or_default().display())))
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
