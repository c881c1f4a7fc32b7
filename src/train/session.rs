//! Puts a run together: the ranks, the data, the model.

use crate::checkpoint::import::{self, Report};
use crate::comm::Collective;
use crate::config::{Config, TaskKind};
use crate::data::prepare::{Prepared, Target, prepare};
use crate::data::{CacheUse, Sampler};
use crate::error::{Context, Error, Result};
use crate::models::hf_names::HfNames;
use crate::models::registry::{self, DropoutOverrides};
use crate::nn::{ParamBuilder, Params};
use crate::tasks::regression::Regression;
use crate::tasks::sequence_classification::SequenceClassification;
use crate::tasks::{Model, Task, labels};
use crate::text::tokenizer::Tokenizer;
use crate::train::resumed::Resumed;
use crate::train::same_everywhere;
use crate::train::settings::source;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Device;

/// The head that a model gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// A classifier over these labels, in the order of their ids.
    Classes(Vec<String>),
    /// One number.
    Number,
}

impl Head {
    /// The head that a finished classifier's `config.json` tells of.
    ///
    /// # Errors
    /// Exit 2: the folder holds no classifier, or it has several labels a text.
    pub fn of_config(folder: &Path, config: &Value) -> Result<Self> {
        let names = labels::of_config(config);
        let problem = config.get("problem_type").and_then(Value::as_str);
        let refuse = |why: &str| Err(Error::input(format!("{}: {why}", folder.join("config.json").display())));
        match (labels::has_classifier(config), problem, names) {
            (false, ..) => {
                refuse("not a fine-tuned classifier (\"architectures\" names no ...ForSequenceClassification)")
            }
            (_, Some("multi_label_classification"), _) => {
                refuse("multi-label models are not supported by this version")
            }
            (_, Some("regression"), _) => Ok(Head::Number),
            (_, None, Some(names)) if names.len() == 1 => Ok(Head::Number),
            (_, _, Some(names)) => Ok(Head::Classes(names)),
            (_, _, None) if config.get("id2label").is_some_and(Value::is_object) => {
                refuse("\"id2label\" has gaps: its ids must be 0, 1, 2 and so on")
            }
            (_, _, None) => Ok(Head::Classes(vec!["LABEL_0".into(), "LABEL_1".into()])),
        }
    }

    /// How the label column is read for this head.
    pub fn target(&self) -> Target {
        match self {
            Head::Classes(labels) => Target::Class { labels: Some(labels.clone()) },
            Head::Number => Target::Value,
        }
    }
}

/// A model with its weights.
pub struct Loaded {
    pub model: Model,
    pub params: Params,
    pub names: HfNames,
    pub report: Report,
}

/// A model declared from `config.json`, its weights not loaded yet.
pub struct Declared {
    folder: PathBuf,
    backbone: Box<dyn crate::models::Backbone>,
    builder: ParamBuilder,
}

impl Declared {
    /// Reads the folder's `config.json`.
    ///
    /// # Errors
    /// Exit 2, as [`registry::backbone`].
    pub fn read(folder: &Path, config: Value, dropout: DropoutOverrides) -> Result<Self> {
        let mut builder = ParamBuilder::new();
        let backbone = registry::backbone(folder, config, dropout, &mut builder)?;
        Ok(Declared { folder: folder.to_owned(), backbone, builder })
    }

    /// The longest sequence, in tokens: the model's limit, or what is asked for below it.
    ///
    /// # Errors
    /// Exit 2 when more is asked for than the model takes.
    pub fn max_length(&self, wanted: Option<usize>) -> Result<usize> {
        let limit = self.backbone.max_length();
        match wanted {
            Some(n) if n > limit => {
                Err(Error::input(format!("data.max_length = {n}: this model takes at most {limit} tokens")))
            }
            _ => Ok(wanted.unwrap_or(limit)),
        }
    }

    /// Refuses data whose tokenizer has ids or segments that the model does not know.
    ///
    /// # Errors
    /// Exit 2: tokenizer.json and config.json disagree.
    pub fn check_vocabulary(&self, data: &Prepared) -> Result<()> {
        let (limit, segments) = (self.backbone.vocab_size(), self.backbone.segments());
        if data.segments > segments {
            return Err(Error::input(format!(
                "{}: the data has {} segments (a pair has two), but config.json says type_vocab_size = {segments}",
                self.folder.display(),
                data.segments
            )));
        }
        if data.vocab_size <= limit {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: tokenizer.json has token ids up to {}, but config.json says vocab_size = {limit}: \
             they do not belong to one model",
            self.folder.display(),
            data.vocab_size - 1
        )))
    }

    /// Adds the head, makes the parameters on `device` and loads the weights.
    ///
    /// # Errors
    /// As [`import::load`].
    pub fn load(self, head: &Head, device: Device, seed: u64) -> Result<Loaded> {
        let (model, specs) = Model::new(self.builder, self.backbone, |backbone, b| -> Box<dyn Task> {
            match head {
                Head::Classes(labels) => Box::new(SequenceClassification::new(labels.clone(), backbone, b)),
                Head::Number => Box::new(Regression::new(backbone, b)),
            }
        });
        let params = Params::new(specs, device);
        let names = model.backbone.hf_names();
        let report = import::load(&self.folder, &params, &names, seed)?;
        Ok(Loaded { model, params, names, report })
    }
}

/// The data of a run.
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
}

impl Session {
    /// Reads everything that the configuration names; a checkpoint that the run goes on from replaces `model.path` as
    /// the place of the weights, and fixes the order of labels.
    ///
    /// All ranks call it; a failure of one is everybody's.
    ///
    /// # Errors
    /// Exit 2 for what is wrong with the model folder or the data.
    pub fn open(config: Config, comm: Arc<dyn Collective>, resumed: Option<&Resumed>) -> Result<Self> {
        let known_labels = resumed.and_then(|resumed| resumed.state.labels.clone());
        let folder = &config.model.path;
        let open = || -> Result<(Declared, usize)> {
            let dropout = DropoutOverrides {
                hidden: config.model.hidden_dropout_prob,
                attention: config.model.attention_probs_dropout_prob,
                classifier: config.model.classifier_dropout,
            };
            let declared = Declared::read(folder, registry::read_config(folder)?, dropout)?;
            // A folder without a tokenizer is the model's fault, not the data's.
            Tokenizer::fingerprint_of(folder)?;
            let max_length = declared.max_length(config.data.max_length)?;
            Ok((declared, max_length))
        };
        let (mut declared, max_length) = comm.agree(open(), "reading the model's configuration")?;
        let data = one_per_host_first(comm.as_ref(), "preparing the data", || {
            let data = read_data(&config, max_length, known_labels.clone())?;
            declared.check_vocabulary(&data.train)?;
            data.eval.as_ref().map_or(Ok(()), |eval| declared.check_vocabulary(eval))?;
            Ok(data)
        })?;
        if let Some(resumed) = resumed {
            resumed.from.clone_into(&mut declared.folder);
        }
        let loaded = declared.load(&data.head, comm.device(), config.seed).and_then(|mut loaded| {
            loaded.params = loaded.params.with_gradients()?;
            Ok(loaded)
        });
        let loaded = comm.agree(loaded, "loading the model")?;
        let session = Session { config, comm, loaded, data, max_length };
        same_everywhere::check(&session, resumed.map_or(0, |resumed| resumed.state.global_step))?;
        Ok(session)
    }

    /// The order of the training data and its division over the ranks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self) -> Result<Sampler> {
        let train = &self.config.train;
        let lengths = self.data.train.dataset.lengths();
        Sampler::new(self.config.seed, lengths, train.global_batch_size, self.comm.world(), train.micro_batch_tokens)
    }
}

/// Lets the first rank of every host do `work` before the others, which then find its result in the cache.
pub fn one_per_host_first<T>(comm: &dyn Collective, what: &str, work: impl Fn() -> Result<T>) -> Result<T> {
    let first = if comm.local_rank() == 0 { work().map(Some) } else { Ok(None) };
    let first = comm.agree(first, what)?;
    let mine = first.map_or_else(work, Ok);
    comm.agree(mine, what)
}

fn read_data(config: &Config, max_length: usize, known_labels: Option<Vec<String>>) -> Result<Data> {
    let folder = &config.model.path;
    let prepare_file = |path: &Path, key: &str, target: &Target| {
        prepare(&source(&config.data, path, key)?, folder, max_length, target, config.data.cache_dir.as_deref())
            .context(key)
    };
    let given = config.task.labels.is_some();
    let target = match config.task.kind {
        TaskKind::SequenceClassification => Target::Class { labels: config.task.labels.clone() },
        TaskKind::Regression => Target::Value,
    };
    let mut train = prepare_file(&config.data.train, "data.train", &target)?;
    // A classifier that was fine-tuned on the same labels keeps the order that its weights know.
    if let (false, Some(found)) = (given, &train.labels) {
        let json = registry::read_config(folder)?;
        let own = labels::of_config(&json).filter(|_| labels::has_classifier(&json));
        let same = own.filter(|own| own != found && sorted(own) == sorted(found));
        if let Some(own) = same {
            train = prepare_file(&config.data.train, "data.train", &Target::Class { labels: Some(own) })?;
        }
    }
    // A checkpoint's head knows the order of its labels.
    if known_labels.is_some() && train.labels != known_labels {
        train = prepare_file(&config.data.train, "data.train", &Target::Class { labels: known_labels })?;
    }
    let head = match (config.task.kind, &train.labels) {
        (TaskKind::Regression, _) => Head::Number,
        (_, Some(labels)) if labels.len() > 1 => Head::Classes(labels.clone()),
        (_, labels) => {
            let found = labels.as_deref().unwrap_or_default().join(", ");
            return Err(Error::input(format!(
                "data.train: {} holds one label only ({found}): a classifier needs two or more",
                config.data.train.display()
            )));
        }
    };
    let eval = config.data.eval.as_ref().map(|path| prepare_file(path, "data.eval", &head.target())).transpose()?;
    Ok(Data { train, eval, head })
}

fn sorted(labels: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = labels.iter().collect();
    sorted.sort();
    sorted
}

/// Whether the tokens of a data set came from the cache, for a person.
pub fn cache_word(prepared: &Prepared) -> &'static str {
    match prepared.cache {
        CacheUse::Hit => "from the token cache",
        CacheUse::Built => "tokenised now",
    }
}
