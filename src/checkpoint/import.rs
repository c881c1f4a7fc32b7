//! Weights from a Hugging Face folder: one file or an index of several, any float type, old names and new.

use crate::checkpoint::tensors::TensorFile;
use crate::error::{Context, Error, Result};
use crate::models::hf_names::HfNames;
use crate::nn::{ParamId, Params};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What loading found besides the weights that it loaded.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Report {
    /// Tensors of the file that the model has no use for.
    pub unused: Vec<String>,
    /// Weights of a head that the file lacks: they start fresh.
    pub fresh: Vec<String>,
    /// Weights of a head whose shape differs in the file: they start fresh too.
    pub reshaped: Vec<String>,
}

/// The weight files of a folder and where each tensor is.
struct Weights {
    files: Vec<(PathBuf, TensorFile)>,
    /// Exported spelling -> (file, spelling in the file).
    places: BTreeMap<String, (usize, String)>,
}

/// Loads the folder's weights into `params`; a head's weights that the file lacks are drawn from (seed, name).
///
/// # Errors
/// Exit 2: no weight file, a damaged one, a weight of the backbone missing, or a shape that disagrees with
/// `config.json`; all of them listed.
pub fn load(folder: &Path, params: &Params, names: &HfNames, seed: u64) -> Result<Report> {
    let weights = Weights::open(folder, names)?;
    let mut report = Report::default();
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    let mut fresh = BTreeSet::new();
    for id in params.ids() {
        let spec = params.spec(id);
        let wanted = names.exported(names.of(&spec.name));
        let missing: Vec<&String> = wanted.iter().filter(|name| !weights.places.contains_key(*name)).collect();
        if spec.fresh && missing.len() == wanted.len() {
            report.fresh.extend(wanted);
            fresh.insert(id);
            continue;
        }
        if !missing.is_empty() {
            problems.extend(missing.iter().map(|name| format!("{name} is missing")));
            continue;
        }
        used.extend(wanted.iter().cloned());
        let shapes = wanted.iter().map(|name| weights.shape(name)).collect::<Result<Vec<_>>>()?;
        match mismatch(&shapes, &spec.shape) {
            None => weights.copy(params, id, &wanted)?,
            Some(_) if spec.fresh => {
                report.reshaped.extend(wanted);
                fresh.insert(id);
            }
            Some(found) => {
                problems.push(format!("{} is {found}, config.json says {:?}", wanted.join(" + "), spec.shape))
            }
        }
    }
    if !problems.is_empty() {
        return Err(refusal(folder, &problems));
    }
    params.init(seed, &fresh);
    report.unused = weights.places.iter().filter(|(name, _)| !used.contains(*name)).map(|(_, p)| p.1.clone()).collect();
    Ok(report)
}

fn refusal(folder: &Path, problems: &[String]) -> Error {
    const SHOWN: usize = 10;
    let more = problems.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!("\n  ... and {more} more") } else { String::new() };
    let list = problems[..problems.len() - more].join("\n  ");
    Error::input(format!(
        "{}: the weights do not fit config.json (is it the config.json of this model?):\n  {list}{tail}",
        folder.display()
    ))
}

/// Describes the shapes found when, joined along dimension 0, they are not `wanted`.
fn mismatch(found: &[Vec<i64>], wanted: &[i64]) -> Option<String> {
    let rows: i64 = found.iter().map(|s| s.first().copied().unwrap_or(1)).sum();
    let fits = found.iter().all(|s| s.len() == wanted.len() && s.get(1..) == wanted.get(1..));
    (!fits || wanted.first() != Some(&rows))
        .then(|| found.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" + "))
}

impl Weights {
    fn open(folder: &Path, names: &HfNames) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let paths = if single.exists() {
            vec![single]
        } else if index.exists() {
            indexed(folder, &index)?
        } else {
            return Err(Error::input(format!(
                "{}: neither model.safetensors nor model.safetensors.index.json; \
                 a folder with pytorch_model.bin is converted by save_pretrained(..., safe_serialization=True)",
                folder.display()
            )));
        };
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for path in paths {
            let file = TensorFile::open(&path)?;
            for name in file.names() {
                if let Some((other, old)) = places.insert(names.normalised(&name), (files.len(), name.clone())) {
                    let other = files.get(other).map_or(&path, |(p, _): &(PathBuf, TensorFile)| p);
                    return Err(Error::input(format!(
                        "{}: tensor {name} stands for the same weight as {old} in {}",
                        path.display(),
                        other.display()
                    )));
                }
            }
            files.push((path, file));
        }
        Ok(Weights { files, places })
    }

    fn shape(&self, name: &str) -> Result<Vec<i64>> {
        let (file, spelling) = &self.places[name];
        self.files[*file].1.shape(spelling)
    }

    fn copy(&self, params: &Params, id: ParamId, names: &[String]) -> Result<()> {
        let weight = params.weight(id);
        let mut row = 0;
        for name in names {
            let (file, spelling) = &self.places[name];
            let (path, file) = &self.files[*file];
            let value = file.read(spelling)?;
            if !value.is_floating_point() {
                return Err(Error::input(format!("{}: tensor {spelling} holds integers", path.display())));
            }
            let rows = value.size()[0];
            weight.narrow(0, row, rows).copy_(&value);
            row += rows;
        }
        Ok(())
    }
}

/// The files that an index names, each once.
fn indexed(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index).input_context(index.display())?;
    let json: Value = serde_json::from_str(&text).input_context(index.display())?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::input(format!("{}: no \"weight_map\"", index.display())))?;
    let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    Ok(files.into_iter().map(|name| folder.join(name)).collect())
}
