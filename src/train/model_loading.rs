//! Loads a model from its folder: reads `config.json`, adds a head, loads the weights.

use crate::checkpoint::adapter::AdapterConfig;
use crate::checkpoint::import::{self, Report, Values};
use crate::checkpoint::optimizer::MASTERS;
use crate::checkpoint::ranges::within;
use crate::checkpoint::sharded::{self, TensorFiles};
use crate::checkpoint::weight_files::Folders;
use crate::comm::Collective;
use crate::config::Config;
use crate::data::Prepared;
use crate::error::{Context, Error, Result};
use crate::models::family::{DropoutOverrides, Plan};
use crate::models::hf_names::HfNames;
use crate::models::layers::Kept;
use crate::models::registry;
use crate::models::{Backbone, Role};
use crate::nn::layout::Content;
use crate::nn::param_builder::ParamSpec;
use crate::nn::{ParamBuilder, Params};
use crate::observe::progress::Phase;
use crate::parallel::{Masters, Weights, Zero};
use crate::tasks::{Head, Model};
use crate::train::{memory_report, trained};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Kind;

/// A model with its weights.
pub struct Loaded {
    pub model: Model,
    pub params: Params,
    pub weights: Weights,
    pub names: HfNames,
    pub report: Report,
    /// Hash of what each unit's weights were read from, as text: equal on ranks that have the same weights to read.
    pub sums: Vec<String>,
    /// Of a model with adapters: the configuration that is saved with them.
    pub adapter: Option<AdapterConfig>,
}

/// Where weights come from, and how they are stored.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// The compute dtype.
    pub kind: Kind,
    pub zero: Zero,
    /// Where the values are that the optimizer updates.
    pub trains: Masters,
    /// Random seed of newly initialized weights.
    pub seed: u64,
    pub from: Source,
}

/// Source of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The weight files of the folder.
    Folder,
    /// The weight files of a checkpoint, and its fp32 masters if it has them.
    Checkpoint,
    /// Newly initialized from (seed, parameter name).
    Random,
}

/// Default `max_length` of models without a limit, the value in the tokenizers of such models.
pub const UNLIMITED: usize = 512;

/// A model declared from `config.json`, without head and weights.
pub struct Declared {
    pub folder: PathBuf,
    backbone: Box<dyn Backbone>,
    builder: ParamBuilder,
    /// The layers that it has of the folder's, if not all.
    kept: Option<Kept>,
}

impl Declared {
    /// Reads the folder's `config.json`.
    ///
    /// # Errors
    /// Exit 2, as [`registry::backbone`].
    pub fn read(folder: &Path, json: Value, dropout: DropoutOverrides, role: Role) -> Result<Self> {
        Self::of_layers(folder, json, dropout, role, None)
    }

    /// The same for a model that has only these `layers` of the folder's, if there is a list.
    ///
    /// # Errors
    /// As [`Declared::read`] and [`Kept::of`].
    pub fn of_layers(
        folder: &Path,
        json: Value,
        dropout: DropoutOverrides,
        role: Role,
        layers: Option<&[usize]>,
    ) -> Result<Self> {
        let stored = |name: &str| import::stored(folder, name);
        let declare = |json: Value| {
            let mut builder = ParamBuilder::new();
            let plan = Plan { json, dropout, role, stored: &stored, builder: &mut builder };
            registry::backbone(folder, plan).map(|backbone| (backbone, builder))
        };
        let (json, kept) = match layers {
            None => (json, None),
            Some(layers) => {
                let (whole, _) = declare(json.clone())?;
                let kept = Kept::of(json, whole.as_ref(), layers);
                let (kept, json) = kept.context(folder.join("config.json").display())?;
                (json, Some(kept))
            }
        };
        let (backbone, builder) = declare(json)?;
        Ok(Declared { folder: folder.to_owned(), backbone, builder, kept })
    }

    /// Reads the weights from a checkpoint, which has the model's own layers.
    pub fn continues(&mut self, checkpoint: &Path) {
        checkpoint.clone_into(&mut self.folder);
        self.kept = None;
    }

    /// Maximum length of a sequence, in tokens; `None` without a limit.
    pub fn limit(&self) -> Option<usize> {
        self.backbone.max_length()
    }

    pub fn vocab_size(&self) -> usize {
        self.backbone.vocab_size()
    }

    /// Returns the maximum sequence length in tokens: `wanted`, else `usual` or the model's limit if that is lower. A
    /// model without a limit has the default [`UNLIMITED`].
    ///
    /// # Errors
    /// Exit 2 if `wanted` exceeds the model's limit.
    pub fn max_length(&self, wanted: Option<usize>, usual: Option<usize>) -> Result<usize> {
        match (wanted, self.backbone.max_length()) {
            (Some(n), Some(limit)) if n > limit => {
                Err(Error::input(format!("data.max_length = {n}: this model supports at most {limit} tokens")))
            }
            (None, Some(limit)) => Ok(usual.map_or(limit, |usual| usual.min(limit))),
            (wanted, _) => Ok(wanted.or(usual).unwrap_or(UNLIMITED)),
        }
    }

    /// Checks that a decoder has positions for targets of up to `longest` tokens.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check_targets(&self, longest: usize) -> Result<()> {
        match self.backbone.max_length() {
            Some(limit) if longest > limit => Err(Error::input(format!(
                "task.max_target_length = {longest}: this model supports at most {limit} tokens"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that the model has embeddings for all token ids and segments of the data.
    ///
    /// # Errors
    /// Exit 2 if the tokenizer and config.json disagree.
    pub fn check_vocabulary(&self, data: &Prepared) -> Result<()> {
        let (limit, segments) = (self.backbone.vocab_size(), self.backbone.segments());
        let facts = &data.facts;
        if facts.segments > segments {
            return Err(Error::input(format!(
                "{}: the data has {} segments (a pair has two), but config.json has type_vocab_size = {segments}",
                self.folder.display(),
                facts.segments
            )));
        }
        if facts.vocab_size <= limit {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: the data has token ids up to {}, but config.json has vocab_size = {limit}: use the tokenizer of this \
             model",
            self.folder.display(),
            facts.vocab_size - 1
        )))
    }

    /// Adds the head. All weights are trained, except those that a file has only for pretraining.
    pub fn with_head(self, head: &Head) -> Shaped {
        let (model, specs) = Model::new(self.builder, self.backbone, |backbone, b| head.build(backbone, b));
        let names = model.backbone.hf_names();
        let (role, kept) = (head.role(), self.kept);
        Shaped { folder: self.folder, model, specs, names, role, adapter: None, kept, teacher: None }
    }
}

/// A model with its head: parameter shapes without storage.
pub struct Shaped {
    pub folder: PathBuf,
    pub model: Model,
    pub specs: Vec<ParamSpec>,
    pub(super) names: HfNames,
    pub(super) role: Role,
    /// The adapters' configuration, and the folder with their weights unless they are new.
    pub(super) adapter: Option<(AdapterConfig, Option<PathBuf>)>,
    pub(super) kept: Option<Kept>,
    /// The frozen model that it learns from too.
    pub teacher: Option<Box<Shaped>>,
}

impl Shaped {
    /// Sets which weights a run on this number of examples trains, from which step on, and with which learning rates and
    /// weight decays.
    ///
    /// # Errors
    /// As [`trained::choose`].
    pub fn for_training(mut self, config: &Config, examples: usize) -> Result<Self> {
        let steps_per_epoch = examples.div_ceil(config.train.global_batch_size) as u64;
        trained::choose(&mut self.specs, &self.names, config, steps_per_epoch)?;
        Ok(self)
    }

    /// Keeps the weights of the linear layers in int8, for inference on a CPU; those of the head, which has few, stay fp32.
    pub fn with_int8(mut self) -> Self {
        for spec in self.specs.iter_mut().filter(|spec| spec.linear.is_some() && !spec.newly_initialized) {
            (spec.int8, spec.trainable) = (true, false);
        }
        self
    }

    /// Returns patterns for `model.freeze` that match the chosen weights, with `alone` only them; `None` if too many.
    pub fn patterns(&self, alone: bool, chosen: impl Fn(&ParamSpec) -> bool) -> Option<Vec<String>> {
        let stored = |of_chosen: bool| -> Vec<String> {
            let specs = self.specs.iter().filter(|spec| chosen(spec) == of_chosen);
            specs.flat_map(|spec| self.names.exported(self.names.of(&spec.name))).collect()
        };
        let (names, others) = (stored(true), stored(false));
        let prefix = common_prefix(&names);
        let matches_others = others.iter().any(|name| name.starts_with(prefix));
        if !prefix.is_empty() && (!alone || !matches_others) {
            return Some(vec![format!("{prefix}*")]);
        }
        (1..=FEW).contains(&names.len()).then_some(names)
    }

    /// Allocates the parameters and loads the weights, of which this rank reads only what it keeps.
    ///
    /// # Errors
    /// As [`Values::open`] and [`Values::copy`].
    pub fn load(self, comm: &Arc<dyn Collective>, how: &LoadOptions) -> Result<Loaded> {
        let Shaped { folder, model, specs, names, adapter, kept, .. } = self;
        let (adapter, adapter_folder) = adapter.map_or((None, None), |(config, folder)| (Some(config), folder));
        let folders = Folders { model: &folder, adapter: adapter_folder.as_deref(), grows: grows(&folder, &model)? };
        let LoadOptions { kind, zero, trains, seed, from } = *how;
        let stored = kept.as_ref().map(|kept| kept.stored(&names));
        let stored = stored.as_ref().unwrap_or(&names);
        if from != Source::Random {
            import::check(folders, &specs, stored)?;
        }
        let params = Params::new(specs, comm.world(), kind, comm.device(), zero.shards_weights())?;
        let weights = Weights::new(&params, Arc::clone(comm), zero, trains)?;
        let masters = adapter_folder.as_ref().unwrap_or(&folder).join(MASTERS);
        let masters = if from == Source::Checkpoint && sharded::exists(&masters) {
            Some(TensorFiles::open(&masters)?)
        } else {
            None
        };
        let (values, mut report) = match from {
            Source::Random => (Values::random(&params, seed), Report::default()),
            _ => Values::open(folders, &params, stored, seed, masters)?,
        };
        report.unexpected.retain(|name| !kept.as_ref().is_some_and(|kept| kept.leaves_out(name)));
        let phase = Phase::of(format!("loading {}", folder.display()), params.ids().count() as u64, "tensors");
        let mut sums = Vec::new();
        for (unit, spec) in params.layout().units().iter().enumerate() {
            let targets = weights.targets(&params, unit);
            let mut hasher = blake3::Hasher::new();
            for &id in &spec.members {
                values.copy(id, &within(&targets, &params.layout().place(id).1))?;
                values.sample(id, &mut hasher)?;
                phase.advance(1);
            }
            sums.push(hasher.finalize().to_hex().to_string());
            if spec.content == Content::Int8 {
                params.quantize(unit)?;
            }
        }
        drop(values);
        let (held, masters) = weights.bytes(&params);
        memory_report::record_kept(comm.device(), [held, 0, masters]);
        Ok(Loaded { model, params, weights, names, report, sums, adapter })
    }
}

/// Returns the rows of the vocabulary in a folder and in a model that has more of them.
fn grows(folder: &Path, model: &Model) -> Result<Option<(i64, i64)>> {
    let rows = registry::read_config(folder).ok().and_then(|json| json.get("vocab_size").and_then(Value::as_i64));
    let needed = model.backbone.vocab_size() as i64;
    Ok(rows.filter(|&rows| rows < needed).map(|rows| (rows, needed)))
}

/// Maximum number of patterns.
const FEW: usize = 3;

/// Returns the longest common prefix of all names that ends with a dot.
fn common_prefix(names: &[String]) -> &str {
    let Some((first, rest)) = names.split_first() else { return "" };
    let mut dots = first.rmatch_indices('.').map(|(at, _)| &first[..=at]);
    dots.find(|prefix| rest.iter().all(|name| name.starts_with(prefix))).unwrap_or_default()
}
