//! Loads weights from a Hugging Face folder: one file or an index of several, any float dtype, old and new names.

use crate::checkpoint::ranges::{self, Target};
use crate::checkpoint::sharded::{self, TensorFiles};
use crate::checkpoint::tensors::TensorFile;
use crate::error::{Error, Result};
use crate::models::hf_names::{HfNames, HfParam};
use crate::nn::param_builder::ParamSpec;
use crate::nn::{ParamId, Params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The weights of a model folder: one file, or several with an index.
pub const WEIGHTS: &str = "model.safetensors";

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

/// The weight files of a folder and an index of their tensors.
struct Weights {
    files: Vec<(PathBuf, TensorFile)>,
    /// Exported name -> (file, name in the file).
    tensors: BTreeMap<String, (usize, String)>,
}

/// The source of a parameter's values.
enum Origin<'a> {
    /// These tensors of the weight files, joined along dimension 0 in native form.
    File(Vec<String>, &'a HfParam),
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
    /// Exit 2: no weight file, a damaged file, missing backbone weights, or shapes that disagree with `config.json`;
    /// all are listed.
    pub fn open(
        folder: &Path,
        params: &'a Params,
        names: &'a HfNames,
        seed: u64,
        masters: Option<TensorFiles>,
    ) -> Result<(Self, Report)> {
        let weights = Weights::open(folder, names)?;
        let specs: Vec<&ParamSpec> = params.ids().map(|id| params.spec(id)).collect();
        let (origins, report) = weights.find(folder, &specs, names)?;
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
            _ => {
                let values = spec.initialize(self.seed).f_view([-1])?;
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
            (None, Origin::File(names, _), Some(weights)) => names.iter().try_for_each(|name| {
                let (file, spelling) = weights.at(name);
                file.sample(spelling, hasher)
            }),
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
pub fn check(folder: &Path, specs: &[ParamSpec], names: &HfNames) -> Result<()> {
    let weights = Weights::open(folder, names)?;
    weights.find(folder, &specs.iter().collect::<Vec<_>>(), names)?;
    let params = specs.iter().map(|spec| names.of(&spec.name));
    let problems = params.map(|param| weights.differences(param, names)).collect::<Result<Vec<_>>>()?.concat();
    if problems.is_empty() { Ok(()) } else { Err(mismatch(folder, &problems)) }
}

/// Reads a tensor of the folder's weight files by its name there; `None` if it or the files do not exist.
///
/// # Errors
/// Exit 2: a damaged file.
pub fn stored(folder: &Path, name: &str) -> Result<Option<Tensor>> {
    for path in files(folder)? {
        let file = TensorFile::open(&path)?;
        if file.contains(name) {
            return file.read(name).map(Some);
        }
    }
    Ok(None)
}

/// Returns the weight files of a folder, possibly none.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    sharded::files(&folder.join(WEIGHTS))
}

fn mismatch(folder: &Path, problems: &[String]) -> Error {
    const SHOWN: usize = 10;
    let more = problems.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!("\n  ... and {more} more") } else { String::new() };
    let list = problems[..problems.len() - more].join("\n  ");
    Error::input(format!(
        "{}: the weights do not match config.json (is it the config.json of this model?):\n  {list}{tail}",
        folder.display()
    ))
}

impl Weights {
    fn open(folder: &Path, names: &HfNames) -> Result<Self> {
        let paths = files(folder)?;
        if paths.is_empty() {
            return Err(Error::input(format!(
                "{}: neither model.safetensors nor model.safetensors.index.json; \
                 convert a folder with pytorch_model.bin by save_pretrained(..., safe_serialization=True)",
                folder.display()
            )));
        }
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for path in paths {
            let file = TensorFile::open(&path)?;
            for name in file.names() {
                if let Some((other, old)) = tensors.insert(names.normalised(&name), (files.len(), name.clone())) {
                    let other = files.get(other).map_or(&path, |(p, _): &(PathBuf, TensorFile)| p);
                    return Err(Error::input(format!(
                        "{}: tensor {name} is the same weight as {old} in {}",
                        path.display(),
                        other.display()
                    )));
                }
            }
            files.push((path, file));
        }
        Ok(Weights { files, tensors })
    }

    /// Finds the source of each parameter, in order of ids.
    fn find<'a>(&self, folder: &Path, specs: &[&ParamSpec], names: &'a HfNames) -> Result<(Vec<Origin<'a>>, Report)> {
        let mut report = Report::default();
        let mut problems = Vec::new();
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
            if spec.newly_initialized && missing.len() == wanted.len() {
                report.missing.extend(wanted);
                origins.push(Origin::Random);
                continue;
            }
            if !missing.is_empty() {
                problems.extend(missing.iter().map(|name| format!("{name} is missing")));
                continue;
            }
            used.extend(wanted.iter().cloned());
            let shapes = wanted.iter().map(|name| self.shape(name)).collect::<Result<Vec<_>>>()?;
            let pieces = param.pieces(&spec.shape);
            let agrees = shapes.iter().zip(&pieces).all(|(shape, piece)| *shape == param.form.file_shape(piece));
            let found = (!agrees).then(|| shapes.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" + "));
            origins.push(match found {
                Some(_) if spec.newly_initialized => {
                    report.mismatched.extend(wanted);
                    Origin::Random
                }
                Some(found) => {
                    let names = wanted.join(" + ");
                    problems.push(format!("{names} is {found}, config.json says {:?}", spec.shape));
                    Origin::Random
                }
                None => Origin::File(wanted, param),
            });
        }
        if !problems.is_empty() {
            return Err(mismatch(folder, &problems));
        }
        let unexpected = self.tensors.iter().filter(|(name, _)| !used.contains(*name) && !HfNames::is_buffer(name));
        report.unexpected = unexpected.map(|(_, tensor)| tensor.1.clone()).collect();
        Ok((origins, report))
    }

    fn present_aliases<'a>(&self, param: &'a HfParam) -> Vec<&'a String> {
        param.aliases.iter().filter(|name| self.tensors.contains_key(*name)).collect()
    }

    /// Returns error messages for tied weights that differ in the files.
    fn differences(&self, param: &HfParam, names: &HfNames) -> Result<Vec<String>> {
        let exported = names.exported(param);
        let own = exported.iter().filter(|name| self.tensors.contains_key(*name));
        let all: Vec<&String> = own.chain(self.present_aliases(param)).collect();
        let Some((name, others)) = all.split_first() else { return Ok(Vec::new()) };
        let mut problems = Vec::new();
        for other in others.iter().filter(|_| !param.aliases.is_empty()) {
            if !self.same(name, other)? {
                problems.push(format!(
                    "{name} and {other} differ, but config.json ties them: if {other} is a separate weight, set \
                     tie_word_embeddings = false there"
                ));
            }
        }
        Ok(problems)
    }

    /// Whether two existing tensors have equal values.
    fn same(&self, one: &str, other: &str) -> Result<bool> {
        let ((file, name), (its_file, its_name)) = (self.at(one), self.at(other));
        file.equals(name, its_file, its_name)
    }

    fn shape(&self, name: &str) -> Result<Vec<i64>> {
        let (file, spelling) = self.at(name);
        file.shape(spelling)
    }

    /// Returns the file of an existing tensor, and its name there.
    fn at(&self, name: &str) -> (&TensorFile, &str) {
        let (file, spelling) = &self.tensors[name];
        (&self.files[*file].1, spelling)
    }

    /// Copies parts of a parameter: the tensors of the files joined along dimension 0.
    fn copy(&self, targets: &[Target], names: &[String], param: &HfParam, shape: &[i64]) -> Result<()> {
        let mut start = 0;
        for (name, piece) in names.iter().zip(param.pieces(shape)) {
            let (file, spelling) = self.at(name);
            if matches!(file.kind(spelling)?, Kind::Int64) {
                return Err(file.error(spelling, "it holds integers"));
            }
            let end = start + piece.iter().product::<i64>();
            let parts = ranges::within(targets, &(start..end));
            match (param.form.transposed, piece.as_slice()) {
                (true, &[rows, columns]) => ranges::copy_transposed(file, spelling, (rows, columns), &parts)?,
                // Another shape has the same elements in the same order.
                _ => ranges::copy(file, spelling, &parts)?,
            }
            start = end;
        }
        Ok(())
    }
}
