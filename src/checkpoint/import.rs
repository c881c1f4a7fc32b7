//! Loads weights from a model folder: one file or several, any float dtype, old and new names.

use crate::checkpoint::adapter::{self, PREFIX};
use crate::checkpoint::ranges::{self, Target};
use crate::checkpoint::sharded::TensorFiles;
use crate::checkpoint::tensors::TensorFile;
use crate::checkpoint::weight_files::{Folders, Weights};
use crate::checkpoint::weight_sets::WeightSet;
use crate::error::{Error, Result};
use crate::models::hf_names::{HfNames, HfParam};
use crate::nn::lora::MAGNITUDE;
use crate::nn::param_builder::ParamSpec;
use crate::nn::{Init, ParamId, Params};
use std::collections::BTreeSet;
use std::path::Path;
use tch::Tensor;

/// Differences between the model and its weight files.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Report {
    /// Unexpected keys: tensors of the files that the model does not use.
    pub unexpected: Vec<String>,
    /// Head weights missing in the files, which are newly initialized.
    pub missing: Vec<String>,
    /// Head weights with another shape in the files, which are newly initialized.
    pub mismatched: Vec<String>,
}

/// The source of a parameter's values.
enum Origin<'a> {
    /// These tensors of the weight files, joined along dimension 0 in native form.
    File(Vec<String>, &'a HfParam),
    /// The norms of the rows of these tensors, stored as this parameter of the model.
    RowNorms(Vec<String>, &'a HfParam),
    /// This tensor, with rows added for new tokens.
    Grown(String),
    /// New initialization from (seed, name).
    Random,
}

/// The values of a model's parameters, which are read when they are copied to where a rank keeps them.
pub struct Values<'a> {
    params: &'a Params,
    /// Without them, all parameters are newly initialized.
    weights: Option<Weights>,
    /// By parameter id.
    origins: Vec<Origin<'a>>,
    /// The fp32 master weights of a checkpoint by native name: they take precedence over the folder's weights.
    masters: Option<TensorFiles>,
    seed: u64,
}

impl<'a> Values<'a> {
    /// Opens the folder's weights. Missing head weights are newly initialized from (seed, name).
    ///
    /// # Errors
    /// Exit 2: no weight file, a damaged file, missing backbone weights, shapes that disagree with `config.json`, or an
    /// adapter of another model; all tensors are listed.
    pub fn open(
        folders: Folders,
        params: &'a Params,
        names: &'a HfNames,
        seed: u64,
        masters: Option<TensorFiles>,
    ) -> Result<(Self, Report)> {
        let weights = Weights::open(folders, names)?;
        let specs: Vec<&ParamSpec> = params.ids().map(|id| params.spec(id)).collect();
        let (origins, report) = weights.find(folders, &specs, names)?;
        Ok((Values { params, weights: Some(weights), origins, masters, seed }, report))
    }

    /// All weights newly initialized from (seed, name).
    pub fn random(params: &'a Params, seed: u64) -> Self {
        let origins = params.ids().map(|_| Origin::Random).collect();
        Values { params, weights: None, origins, masters: None, seed }
    }

    /// Copies the elements of a parameter that each target holds, converted to its dtype. Only these are read, and
    /// directly into the targets, unless the parameter is newly initialized or stored transposed.
    ///
    /// # Errors
    /// Exit 2 for a tensor of integers, or with another shape than the parameter's; out of memory.
    pub fn copy(&self, id: ParamId, targets: &[Target]) -> Result<()> {
        let spec = self.params.spec(id);
        match (self.master(spec), &self.origins[id.index()], &self.weights) {
            (Some(files), ..) => {
                let file = files.of(&spec.name)?;
                file.expect_shape(&spec.name, &spec.shape)?;
                ranges::copy(file, &spec.name, targets)
            }
            (None, Origin::File(names, param), Some(weights)) => weights.copy(targets, names, param, &spec.shape),
            _ if targets.is_empty() => Ok(()),
            (_, origin, weights) => {
                let values = match (origin, weights) {
                    (Origin::RowNorms(names, param), Some(weights)) => {
                        weights.norms(names, param, self.params.kind())?
                    }
                    (Origin::Grown(name), Some(weights)) => weights.grown(name, &spec.shape)?,
                    _ => spec.initialize(self.seed),
                };
                let values = values.f_view([-1])?;
                let copy = |(range, target): &Target| {
                    target.shallow_clone().f_copy_(&values.f_narrow(0, range.start, range.end - range.start)?)
                };
                Ok(targets.iter().try_for_each(|target| copy(target).map(|_| ()))?)
            }
        }
    }

    /// Adds what determines a parameter's values to a hash: sampled bytes of the file's tensors with their dtypes and
    /// shapes, or the seed. Ranks that keep different parts of a parameter add the same.
    ///
    /// # Errors
    /// Exit 2 for a damaged file.
    pub fn sample(&self, id: ParamId, hasher: &mut blake3::Hasher) -> Result<()> {
        let spec = self.params.spec(id);
        hasher.update(spec.name.as_bytes());
        match (self.master(spec), &self.origins[id.index()], &self.weights) {
            (Some(files), ..) => files.of(&spec.name)?.sample(&spec.name, hasher),
            (None, Origin::File(names, _) | Origin::RowNorms(names, _), Some(weights)) => {
                names.iter().try_for_each(|name| {
                    let (file, spelling) = weights.at(name);
                    file.sample(spelling, hasher)
                })
            }
            (None, Origin::Grown(name), Some(weights)) => {
                let (file, spelling) = weights.at(name);
                file.sample(spelling, hasher)
            }
            _ => {
                hasher.update(&self.seed.to_le_bytes());
                Ok(())
            }
        }
    }

    fn master(&self, spec: &ParamSpec) -> Option<&TensorFiles> {
        self.masters.as_ref().filter(|file| file.contains(&spec.name))
    }
}

/// Checks whether the folder's weights match the parameters, before memory is allocated.
///
/// # Errors
/// Those of [`Values::open`]; different tensors for weights that are tied in `config.json`.
pub fn check(folders: Folders, specs: &[ParamSpec], names: &HfNames) -> Result<()> {
    let weights = Weights::open(folders, names)?;
    weights.find(folders, &specs.iter().collect::<Vec<_>>(), names)?;
    let params = specs.iter().map(|spec| names.of(&spec.name));
    let problems = params.map(|param| weights.differences(param, names)).collect::<Result<Vec<_>>>()?.concat();
    if problems.is_empty() { Ok(()) } else { Err(mismatch(folders.model, &problems)) }
}

/// Returns for each parameter whether it is a head's that the folder's files lack, or have in another shape, so that it
/// starts newly initialized; `None` if there are no weight files.
///
/// # Errors
/// Exit 2: a damaged file.
pub fn lacking(folder: &Path, specs: &[ParamSpec], names: &HfNames) -> Result<Option<Vec<bool>>> {
    if WeightSet::of(folder)?.files.is_empty() {
        return Ok(None);
    }
    let weights = Weights::open(folder.into(), names)?;
    let heads: Vec<&ParamSpec> = specs.iter().filter(|spec| spec.newly_initialized).collect();
    let (origins, _) = weights.find(folder.into(), &heads, names)?;
    let mut origins = origins.iter();
    let is_lacking = |spec: &ParamSpec| spec.newly_initialized && matches!(origins.next(), Some(Origin::Random));
    Ok(Some(specs.iter().map(is_lacking).collect()))
}

/// Returns the modules that an adapter's file adapts, by Hugging Face's names without the task model's.
///
/// # Errors
/// Exit 2: no such file, a damaged file, or one without adapters.
pub fn adapted_modules(folder: &Path) -> Result<BTreeSet<String>> {
    let set = adapter::weights_in(folder);
    let names: Vec<String> = TensorFile::open(&set)?.names();
    let module = |name: &String| Some(name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?.to_owned());
    let modules: BTreeSet<String> = names.iter().filter_map(module).collect();
    if modules.is_empty() {
        return Err(Error::input(format!("{}: no tensor {PREFIX}....lora_A.weight", set.display())));
    }
    Ok(modules)
}

/// Reads a tensor of the folder's weight files by its name there; `None` if it or the files do not exist.
///
/// # Errors
/// Exit 2: a damaged file.
pub fn stored(folder: &Path, name: &str) -> Result<Option<Tensor>> {
    for path in WeightSet::of(folder)?.files {
        let file = TensorFile::open(&path)?;
        if file.contains(name) {
            return file.read(name).map(Some);
        }
    }
    Ok(None)
}

/// Returns the number of labels of a classifier that is saved with an adapter, if there is one.
///
/// # Errors
/// Exit 2: no such file, or a damaged file.
pub fn classifier_rows(folder: &Path) -> Result<Option<usize>> {
    const HEADS: &[&str] = &[
        "classifier.weight",
        "score.weight",
        "logits_proj.weight",
        "classifier.out_proj.weight",
        "classification_head.out_proj.weight",
    ];
    let file = TensorFile::open(&adapter::weights_in(folder))?;
    let head = HEADS.iter().map(|head| format!("{PREFIX}{head}")).find(|name| file.contains(name));
    head.map(|name| Ok(file.shape(&name)?.first().copied().unwrap_or_default() as usize)).transpose()
}

/// Returns the shape in the file of a parameter of this shape that gets new rows.
fn before_growth(param: &HfParam, shape: &[i64], grows: Option<(i64, i64)>) -> Option<Vec<i64>> {
    let (old, new) = grows.filter(|(_, new)| shape.first() == Some(new) && !param.form.transposed)?;
    let mut before = param.form.file_shape(shape);
    *before.iter_mut().find(|rows| **rows == new)? = old;
    Some(before)
}

/// Returns the first problems, a line for each.
fn list(problems: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = problems.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!("\n  ... and {more} more") } else { String::new() };
    format!("\n  {}{tail}", problems[..problems.len() - more].join("\n  "))
}

fn mismatch(folder: &Path, problems: &[String]) -> Error {
    Error::input(format!(
        "{}: the weights do not match config.json (is it the config.json of this model?):{}",
        folder.display(),
        list(problems)
    ))
}

fn of_another(adapter: &Path, model: &Path, problems: &[String]) -> Error {
    Error::input(format!(
        "{}: not an adapter of {} (give its base model's folder):{}",
        adapter.display(),
        model.display(),
        list(problems)
    ))
}

impl Weights {
    /// Finds the source of each parameter, in order of ids.
    fn find<'a>(
        &self,
        folders: Folders,
        specs: &[&ParamSpec],
        names: &'a HfNames,
    ) -> Result<(Vec<Origin<'a>>, Report)> {
        let mut report = Report::default();
        // Of the model, and of the adapter.
        let (mut problems, mut of_adapter) = (Vec::new(), Vec::new());
        let mut used = BTreeSet::new();
        let mut origins = Vec::new();
        for spec in specs {
            let param = names.of(&spec.name);
            let mut wanted = names.exported(param);
            used.extend(param.aliases.iter().cloned());
            let others = self.present_aliases(param);
            let fallback = param.fallback.iter().find(|name| self.tensors.contains_key(*name));
            if let [name] = wanted.as_mut_slice()
                && !self.tensors.contains_key(name)
            {
                others.first().copied().or(fallback).into_iter().for_each(|other| name.clone_from(other));
            }
            let missing: Vec<&String> = wanted.iter().filter(|name| !self.tensors.contains_key(*name)).collect();
            if spec.init == Init::RowNorms && spec.newly_initialized {
                let base = names.of(&spec.name.replace(MAGNITUDE, "weight"));
                let of_base = wanted.iter().map(|name| name.replace(MAGNITUDE, "weight")).collect();
                origins.push(Origin::RowNorms(of_base, base));
                continue;
            }
            if spec.newly_initialized && missing.len() == wanted.len() {
                if !spec.adapter {
                    report.missing.extend(wanted);
                }
                origins.push(Origin::Random);
                continue;
            }
            if !missing.is_empty() {
                let missing = missing.iter().map(|name| match name.strip_suffix("lm_head.weight") {
                    Some("") => format!(
                        "{name} is missing, but tie_word_embeddings is false: set it to true if the model shares its \
                         embeddings, else download the whole model"
                    ),
                    _ => format!("{name} is missing"),
                });
                if spec.adapter {
                    of_adapter.extend(missing)
                } else {
                    problems.extend(missing)
                }
                continue;
            }
            used.extend(wanted.iter().cloned());
            let shapes = wanted.iter().map(|name| self.shape(name)).collect::<Result<Vec<_>>>()?;
            let pieces = param.pieces(&spec.shape);
            let agrees = shapes.iter().zip(&pieces).all(|(shape, piece)| *shape == param.form.file_shape(piece));
            if let ([name], [shape]) = (&wanted[..], &shapes[..])
                && before_growth(param, &spec.shape, folders.grows).is_some_and(|before| before == *shape)
            {
                origins.push(Origin::Grown(name.clone()));
                continue;
            }
            let found = (!agrees).then(|| shapes.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" + "));
            origins.push(match found {
                Some(_) if spec.newly_initialized => {
                    report.mismatched.extend(wanted);
                    Origin::Random
                }
                Some(found) => {
                    let names = wanted.join(" + ");
                    if wanted.iter().any(|name| self.adapter.contains(name)) {
                        of_adapter.push(format!("{names} is {found}, the model needs {:?}", spec.shape));
                    } else {
                        problems.push(format!("{names} is {found}, config.json says {:?}", spec.shape));
                    }
                    Origin::Random
                }
                None => Origin::File(wanted, param),
            });
        }
        let unknown = self.adapter.iter().filter(|name| !used.contains(*name));
        of_adapter.extend(unknown.map(|name| format!("{} is of no layer of the model", self.tensors[name].1)));
        let all = [of_adapter, problems].concat();
        match folders.adapter {
            _ if all.is_empty() => {}
            Some(adapter) => return Err(of_another(adapter, folders.model, &all)),
            None => return Err(mismatch(folders.model, &all)),
        }
        let unexpected = self.tensors.iter().filter(|(name, _)| !used.contains(*name) && !HfNames::is_buffer(name));
        report.unexpected = unexpected.map(|(_, tensor)| tensor.1.clone()).collect();
        Ok((origins, report))
    }
}
