//! LoRA on a declared model: which linear layers get adapters, and what else is trained.
//!
//! Everything is decided by Hugging Face's module names, as in PEFT. A native weight may be several of its modules
//! (queries, keys, values): each is adapted or not.

use crate::checkpoint::adapter::AdapterConfig;
use crate::checkpoint::import;
use crate::config::{LoraConfig, TargetModules};
use crate::error::{Error, Result};
use crate::hub;
use crate::models::Role;
use crate::models::hf_names::{Form, HfNames, HfParam};
use crate::nn::lora::{self, LoraShape, MAGNITUDE};
use crate::nn::param_builder::{ParamSpec, Piece};
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::Shaped;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use wildmatch::WildMatch;

/// Adapters to declare: new ones, or those of a folder.
#[derive(Debug, Clone)]
pub struct Lora {
    config: AdapterConfig,
    targets: Targets,
    /// The folder with the adapters' weights, unless they are new.
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum Targets {
    AllLinear,
    /// As written by users.
    Names(Vec<String>),
    /// Whole names, from an adapter's file.
    Modules(BTreeSet<String>),
}

impl Lora {
    /// Returns the adapters of a run: those of `checkpoint`, of the folder `model` if it is an adapter's, new ones as
    /// configured, or none.
    ///
    /// # Errors
    /// Exit 2: an adapter's folder that cannot be used, settings that contradict it, a checkpoint that has no adapter
    /// although the run trains one, or the reverse.
    pub fn of_run(config: &LoraConfig, model: &ModelFolder, checkpoint: Option<&Path>) -> Result<Option<Self>> {
        let wanted = config.is_on() || model.adapter.is_some();
        if let Some(checkpoint) = checkpoint
            && wanted != AdapterConfig::is_in(checkpoint)
        {
            let (has, trains) = if wanted { ("a full model", "an adapter") } else { ("an adapter", "the full model") };
            let path = checkpoint.display();
            return Err(Error::input(format!(
                "{path}: has {has}, but this run trains {trains} ([lora]): start a new run"
            )));
        }
        match (checkpoint, &model.adapter) {
            _ if !wanted => Ok(None),
            (Some(checkpoint), _) => Self::of_folder(checkpoint, AdapterConfig::read(checkpoint)?, config).map(Some),
            (None, Some(adapter)) => Self::of_folder(&model.path, adapter.clone(), config).map(Some),
            (None, None) => Ok(Some(Self::new(config, model)?)),
        }
    }

    /// Returns the adapters of a finished model, if the folder is an adapter's.
    ///
    /// # Errors
    /// Exit 2: a damaged file.
    pub fn of_model(model: &ModelFolder) -> Result<Option<Self>> {
        let adapter = model.adapter.clone();
        adapter.map(|adapter| Self::of_folder(&model.path, adapter, &LoraConfig::default())).transpose()
    }

    fn new(config: &LoraConfig, model: &ModelFolder) -> Result<Self> {
        let config = config.clone();
        let on_hub = hub::Repo::of_path(&model.named_base);
        let base = match &on_hub {
            Some(repo) => PathBuf::from(&repo.id),
            None => std::path::absolute(&model.base)?,
        };
        let adapter = AdapterConfig {
            peft_type: "LORA".into(),
            task_type: None,
            base_model_name_or_path: Some(base),
            revision: on_hub.map(|repo| repo.revision).filter(|revision| revision != "main"),
            r: config.r.unwrap_or(8),
            lora_alpha: config.lora_alpha.unwrap_or(8.0),
            lora_dropout: config.lora_dropout.unwrap_or(0.0),
            target_modules: Value::Null,
            fan_in_fan_out: false,
            modules_to_save: config.modules_to_save,
            use_rslora: config.use_rslora.unwrap_or(false),
            use_dora: config.use_dora.unwrap_or(false),
            bias: "none".into(),
            inference_mode: true,
        };
        let targets = match config.target_modules {
            None | Some(TargetModules::AllLinear) => Targets::AllLinear,
            Some(TargetModules::Names(names)) => Targets::Names(names),
        };
        Ok(Lora { config: adapter, targets, folder: None })
    }

    /// The adapters of a folder; of the settings only `lora_dropout` may differ from it.
    fn of_folder(folder: &Path, mut adapter: AdapterConfig, config: &LoraConfig) -> Result<Self> {
        let differs = [
            ("r", config.r.is_some_and(|r| r != adapter.r)),
            ("lora_alpha", config.lora_alpha.is_some_and(|alpha| alpha != adapter.lora_alpha)),
            ("use_rslora", config.use_rslora.is_some_and(|flag| flag != adapter.use_rslora)),
            ("use_dora", config.use_dora.is_some_and(|flag| flag != adapter.use_dora)),
        ];
        if let Some((key, _)) = differs.iter().find(|(_, differs)| *differs) {
            let path = folder.display();
            return Err(Error::input(format!(
                "lora.{key}: the adapter in {path} has another value: remove the setting"
            )));
        }
        adapter.lora_dropout = config.lora_dropout.unwrap_or(adapter.lora_dropout);
        let targets = Targets::Modules(import::adapted_modules(folder)?);
        Ok(Lora { config: adapter, targets, folder: Some(folder.to_owned()) })
    }
}

impl Shaped {
    /// Declares the adapters, if there are any.
    ///
    /// # Errors
    /// As [`Shaped::with_lora`].
    pub fn with_adapters(self, lora: Option<&Lora>) -> Result<Self> {
        match lora {
            Some(lora) => self.with_lora(lora),
            None => Ok(self),
        }
    }

    /// Declares the adapters and freezes everything else, except the modules to save: those configured, the classifier,
    /// and heads that the model's files lack.
    ///
    /// # Errors
    /// Exit 2: a name that matches no module, or none that can have an adapter; an adapter of another model.
    pub fn with_lora(mut self, lora: &Lora) -> Result<Self> {
        let Lora { config, targets, folder } = lora;
        let mut config = config.clone();
        let role = self.role;
        config.task_type = config.task_type.or_else(|| task_type(role).map(str::to_owned));
        if folder.is_none() {
            let lacking = import::lacking(&self.folder, &self.specs, &self.names)?;
            config.modules_to_save = saved_modules(&self, config.modules_to_save.take(), lacking, role)?;
        }
        let saved = config.modules_to_save.clone().unwrap_or_default();
        let chosen = choose(&self.specs, &self.names, targets, &saved, folder.as_deref())?;
        let shape = LoraShape {
            r: config.r as i64,
            scale: config.scale(),
            dropout: config.lora_dropout,
            dora: config.use_dora,
            new: folder.is_none(),
        };
        for spec in &mut self.specs {
            spec.trainable = is_saved(spec, &self.names, &saved)?;
        }
        for index in 0..self.specs.len() {
            let spec = &self.specs[index];
            let Some(slot) = spec.linear.clone().filter(|_| !spec.trainable) else { continue };
            let Some(adapted) = chosen.get(index).filter(|adapted| adapted.contains(&true)) else {
                slot.set(None);
                continue;
            };
            let param = self.names.of(&spec.name).clone();
            let heights = param.pieces(&spec.shape).into_iter().map(|piece| piece[0]);
            let pieces: Vec<Piece> = heights.zip(adapted).map(|(rows, &adapted)| Piece { rows, adapted }).collect();
            config.fan_in_fan_out |= param.form.transposed;
            self.names.params.extend(adapter_names(&param, &pieces, shape.dora));
            lora::declare(&mut self.specs, index, &pieces, shape);
        }
        if config.target_modules.is_null() {
            config.target_modules = json!(compact(&self.specs, &self.names));
        }
        Ok(Shaped { adapter: Some((config, folder.clone())), ..self })
    }
}

/// PEFT's name of a task; none for tasks that it does not name.
fn task_type(role: Role) -> Option<&'static str> {
    match role {
        Role::SequenceClassification => Some("SEQ_CLS"),
        Role::TokenClassification => Some("TOKEN_CLS"),
        Role::QuestionAnswering => Some("QUESTION_ANS"),
        Role::CausalLm => Some("CAUSAL_LM"),
        Role::Seq2Seq => Some("SEQ_2_SEQ_LM"),
        Role::Embedding => Some("FEATURE_EXTRACTION"),
        Role::MultipleChoice | Role::MaskedLm | Role::PreTraining => None,
    }
}

/// Returns the module that a tensor belongs to, and whether the tensor is its weight; `None` for a bare parameter.
fn module(name: &str) -> Option<(&str, bool)> {
    name.strip_suffix(".weight").map(|module| (module, true)).or_else(|| Some((name.strip_suffix(".bias")?, false)))
}

/// Returns the modules to save of a new adapter.
fn saved_modules(
    shaped: &Shaped,
    wanted: Option<Vec<String>>,
    lacking: Option<Vec<bool>>,
    role: Role,
) -> Result<Option<Vec<String>>> {
    let Shaped { specs, names, .. } = shaped;
    let wanted = wanted.unwrap_or_default();
    let all: Vec<String> = specs.iter().flat_map(|spec| names.exported(names.of(&spec.name))).collect();
    if let Some(unused) = wanted.iter().find(|name| !all.iter().any(|tensor| contains(tensor, name))) {
        return Err(Error::input(format!("lora.modules_to_save: {unused:?} is no module; tensors are {}", some(&all))));
    }
    let mut saved = wanted;
    // PEFT adds these names itself, when it loads the adapter.
    let usual: &[&str] = match role {
        Role::SequenceClassification | Role::TokenClassification => &["classifier", "score"],
        Role::QuestionAnswering => &["qa_outputs"],
        _ => &[],
    };
    for (i, spec) in specs.iter().enumerate() {
        let is_classifier = spec.name.starts_with("classifier.") && !matches!(role, Role::MaskedLm | Role::PreTraining);
        let is_new = spec.newly_initialized && lacking.as_ref().is_some_and(|lacking| lacking[i]);
        if !is_classifier && !is_new {
            continue;
        }
        for tensor in names.exported(names.of(&spec.name)) {
            if usual.iter().any(|name| contains(&tensor, name)) || saved.iter().any(|name| contains(&tensor, name)) {
                continue;
            }
            match module(&tensor) {
                Some((module, _)) if !is_language_head(role) => saved.push(module.to_owned()),
                _ => {
                    let folder = shaped.folder.display();
                    return Err(Error::input(format!(
                        "{folder}: the language-model head lacks {tensor}, and an adapter cannot add a head: train this \
                         model in full first, without [lora]"
                    )));
                }
            }
        }
    }
    let usual = usual.iter().map(|&name| name.to_owned()).filter(|name| !saved.contains(name)).collect::<Vec<_>>();
    let all = [usual, saved].concat();
    Ok((!all.is_empty()).then_some(all))
}

fn is_language_head(role: Role) -> bool {
    matches!(role, Role::MaskedLm | Role::PreTraining | Role::CausalLm | Role::Seq2Seq)
}

/// Whether a module's name has these parts, one after another: `bert.pooler.dense.weight` has `pooler`.
fn contains(tensor: &str, name: &str) -> bool {
    format!(".{tensor}.").contains(&format!(".{name}."))
}

/// Whether a parameter is trained in full.
fn is_saved(spec: &ParamSpec, names: &HfNames, saved: &[String]) -> Result<bool> {
    let param = names.of(&spec.name);
    let tensors = names.exported(param);
    let found: Vec<bool> = tensors.iter().map(|t| saved.iter().any(|name| contains(t, name))).collect();
    let refuse = |why: &str| Err(Error::input(format!("lora.modules_to_save: {}: {why}", tensors.join(", "))));
    match (found.contains(&true), found.contains(&false)) {
        (true, true) => refuse("form one weight here: save all of them or none"),
        (true, false) if !param.aliases.is_empty() => refuse("tied to the head, and an adapter's file cannot tie them"),
        (saved, _) => Ok(saved),
    }
}

/// Returns for each parameter which of its modules get an adapter; empty for parameters that cannot have one.
fn choose(
    specs: &[ParamSpec],
    names: &HfNames,
    targets: &Targets,
    saved: &[String],
    folder: Option<&Path>,
) -> Result<Vec<Vec<bool>>> {
    let patterns: Vec<(&String, WildMatch)> = match targets {
        Targets::Names(list) => list.iter().map(|name| (name, WildMatch::new(name))).collect(),
        _ => Vec::new(),
    };
    let mut used = vec![false; patterns.len()];
    // By pattern: a module that it matches and that cannot have an adapter.
    let mut useless: Vec<Option<String>> = vec![None; patterns.len()];
    let mut left: BTreeSet<&str> = match targets {
        Targets::Modules(modules) => modules.iter().map(String::as_str).collect(),
        _ => BTreeSet::new(),
    };
    let mut chosen = Vec::new();
    for spec in specs {
        let tensors = names.exported(names.of(&spec.name));
        let adapted = tensors.iter().map(|tensor| {
            let Some((module, true)) = module(tensor) else { return false };
            let can = spec.linear.is_some() && !saved.iter().any(|name| contains(module, name));
            match targets {
                Targets::AllLinear => can,
                Targets::Modules(_) => left.remove(module) && can,
                Targets::Names(_) => {
                    let mut any = false;
                    for (i, (name, pattern)) in patterns.iter().enumerate() {
                        let ends = module == name.as_str() || module.ends_with(&format!(".{name}"));
                        let is_pattern = name.contains(['*', '?']);
                        if !(if is_pattern { pattern.matches(module) } else { ends }) {
                            continue;
                        }
                        any = true;
                        used[i] |= can;
                        if !can {
                            useless[i].get_or_insert_with(|| module.to_owned());
                        }
                    }
                    any && can
                }
            }
        });
        chosen.push(adapted.collect());
    }
    if let (Some(module), Some(folder)) = (left.first(), folder) {
        return Err(Error::input(format!(
            "{}: not an adapter of this base model, which has no module {module} (give its base model's folder)",
            folder.display()
        )));
    }
    if let Some(i) = used.iter().position(|used| !used) {
        let name = patterns[i].0;
        return Err(Error::input(match &useless[i] {
            Some(module) => format!(
                "lora.target_modules: {name:?} matches {module}, which is no linear layer, or is trained in full: name \
                 linear layers; modules_to_save trains others"
            ),
            None => {
                let linear = specs.iter().filter(|spec| spec.linear.is_some());
                let all: Vec<String> = linear
                    .flat_map(|spec| names.exported(names.of(&spec.name)))
                    .filter_map(|tensor| Some(module(&tensor)?.0.to_owned()))
                    .collect();
                format!("lora.target_modules: {name:?} matches no module; linear layers are {}", some(&all))
            }
        }));
    }
    Ok(chosen)
}

/// Returns some names, for a message.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 6 { format!("{shown}, ...") } else { shown }
}

/// Returns the mapping of an adapter's parameters: as many tensors as there are adapted parts.
fn adapter_names(param: &HfParam, pieces: &[Piece], dora: bool) -> Vec<HfParam> {
    let adapted = || param.parts.iter().zip(pieces).filter(|(_, piece)| piece.adapted);
    let heights: Vec<i64> = adapted().map(|(_, piece)| piece.rows).collect();
    let of = |name: &str, sizes: Vec<i64>| HfParam {
        native: format!("{}{name}", param.native.strip_suffix("weight").unwrap_or(&param.native)),
        parts: adapted().map(|(part, _)| format!("{}{name}", part.strip_suffix("weight").unwrap_or(part))).collect(),
        sizes,
        prefixed: param.prefixed,
        form: Form::default(),
        aliases: Vec::new(),
        fallback: None,
    };
    let mut all = vec![of("lora_A.weight", Vec::new()), of("lora_B.weight", heights.clone())];
    all.extend(dora.then(|| of(MAGNITUDE, heights)));
    all
}

/// Returns `target_modules` for PEFT: the last part of a name if all modules that end in it are adapted, else the name.
fn compact(specs: &[ParamSpec], names: &HfNames) -> Vec<String> {
    let mut adapted = BTreeSet::new();
    let mut all = BTreeSet::new();
    for spec in specs {
        for tensor in names.exported(names.of(&spec.name)) {
            match tensor.strip_suffix(".lora_A.weight") {
                Some(module) => _ = adapted.insert(module.to_owned()),
                None => all.extend(module(&tensor).map(|(module, _)| module.to_owned())),
            }
        }
    }
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let ends: BTreeSet<String> = adapted
        .iter()
        .map(|name| {
            let end = last(name);
            let whole = all.iter().filter(|other| last(other) == end).all(|other| adapted.contains(other));
            if whole { end } else { name.clone() }
        })
        .collect();
    ends.into_iter().collect()
}
