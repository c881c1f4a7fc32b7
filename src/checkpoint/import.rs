//! Loads weights from a Hugging Face folder: one file or an index of several, any float dtype, old and new names.

use crate::checkpoint::tensors::TensorFile;
use crate::error::{Context, Error, Result};
use crate::models::hf_names::{HfNames, HfParam};
use crate::nn::param_builder::ParamSpec;
use crate::nn::{ParamId, Params};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

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

/// Loads the folder's weights unit by unit: `sink` gets the index of each unit and its values, f32 `[padded]` on the
/// CPU. Missing head weights are newly initialized from (seed, name). `masters`, the fp32 master weights of a
/// checkpoint by native name, take precedence over the folder's weights.
///
/// # Errors
/// Exit 2: no weight file, a damaged file, missing backbone weights, or shapes that disagree with `config.json`; all
/// are listed before `sink` is called.
pub fn load(
    folder: &Path,
    params: &Params,
    names: &HfNames,
    seed: u64,
    masters: Option<&TensorFile>,
    sink: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<Report> {
    let weights = Weights::open(folder, names)?;
    let specs: Vec<&ParamSpec> = params.ids().map(|id| params.spec(id)).collect();
    let (origins, report) = weights.find(folder, &specs, names)?;
    let fill = |id: ParamId, target: &mut Tensor| {
        let spec = params.spec(id);
        match (masters.filter(|file| file.contains(&spec.name)), &origins[id.index()]) {
            (Some(file), _) => target.copy_(&file.read_shaped(&spec.name, &spec.shape)?),
            (None, Origin::File(names, param)) => weights.copy(target, names, param)?,
            (None, Origin::Random) => target.copy_(&spec.initialize(seed)),
        }
        Ok(())
    };
    each_unit(params, fill, sink)?;
    Ok(report)
}

/// Checks whether the folder's weights match the parameters, before memory is allocated.
///
/// # Errors
/// Those of [`load`] except for unreadable values; different tensors for weights that are tied in `config.json`.
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
    let single = folder.join("model.safetensors");
    let index = folder.join("model.safetensors.index.json");
    match (single.exists(), index.exists()) {
        (true, _) => Ok(vec![single]),
        (false, true) => indexed(folder, &index),
        (false, false) => Ok(Vec::new()),
    }
}

/// Initializes all weights from (seed, name), unit by unit, as in [`load`].
pub fn initialize(params: &Params, seed: u64, sink: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
    let fill = |id: ParamId, target: &mut Tensor| {
        target.copy_(&params.spec(id).initialize(seed));
        Ok(())
    };
    each_unit(params, fill, sink)
}

/// Holds one unit at a time.
fn each_unit(
    params: &Params,
    fill: impl Fn(ParamId, &mut Tensor) -> Result<()>,
    mut sink: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<()> {
    for unit in 0..params.layout().units().len() {
        let values = Tensor::f_zeros([params.layout().padded(unit)], (Kind::Float, Device::Cpu))?;
        params.members(unit, &values).try_for_each(|(id, mut target)| fill(id, &mut target))?;
        sink(unit, &values)?;
    }
    Ok(())
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
        let read = |name: &str| {
            let (file, spelling) = &self.tensors[name];
            self.files[*file].1.read(spelling)
        };
        let (one, other) = (read(one)?, read(other)?);
        Ok(one.kind() == other.kind() && one.size() == other.size() && one == other)
    }

    fn shape(&self, name: &str) -> Result<Vec<i64>> {
        let (file, spelling) = &self.tensors[name];
        self.files[*file].1.shape(spelling)
    }

    fn copy(&self, target: &Tensor, names: &[String], param: &HfParam) -> Result<()> {
        let mut row = 0;
        for (name, piece) in names.iter().zip(param.pieces(&target.size())) {
            let (file, spelling) = &self.tensors[name];
            let (path, file) = &self.files[*file];
            let value = file.read(spelling)?;
            if !value.is_floating_point() {
                return Err(Error::input(format!("{}: tensor {spelling} holds integers", path.display())));
            }
            target.narrow(0, row, piece[0]).copy_(&param.form.to_native(&value, &piece));
            row += piece[0];
        }
        Ok(())
    }
}

/// Returns the distinct files of an index.
fn indexed(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index).input_context(index.display())?;
    let json: Value = serde_json::from_str(&text).input_context(index.display())?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::input(format!("{}: no \"weight_map\"", index.display())))?;
    let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    Ok(files.into_iter().map(|name| folder.join(name)).collect())
}
