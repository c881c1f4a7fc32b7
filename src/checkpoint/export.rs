//! Exports the model of a checkpoint as a Hugging Face folder.

use crate::checkpoint::adapter;
use crate::checkpoint::folder::{copy_file, write_file};
use crate::checkpoint::tensor_writer::Entry;
use crate::checkpoint::weight_sets;
use crate::error::{Context, Result};
use crate::models::hf_names::{HfNames, HfParam};
use crate::nn::{ParamId, Params};
use serde_json::Value;
use std::path::Path;
use tch::Tensor;

/// The default settings of text generation of a model folder.
pub const GENERATION_FILE: &str = "generation_config.json";

/// Returns the tensors of the weight file, in the order of [`parts`], unit by unit.
pub fn entries(params: &Params, names: &HfNames) -> Vec<Entry> {
    let units = params.layout().units().iter();
    let ids = units.flat_map(|unit| &unit.members).filter(|&&id| is_exported(params, id));
    ids.flat_map(|&id| {
        let spec = params.spec(id);
        let param = names.of(&spec.name);
        let shapes = param.pieces(&spec.shape).into_iter().map(|piece| param.form.file_shape(&piece));
        let each = exported(params, names, param).into_iter().zip(shapes);
        each.map(|(name, shape)| Entry { name, shape, kind: params.kind() }).collect::<Vec<_>>()
    })
    .collect()
}

/// Returns the name of the weight file: of a model with adapters, the file has only what is trained.
pub fn weight_file(params: &Params) -> &'static str {
    if params.has_adapters() { adapter::WEIGHTS } else { weight_sets::WEIGHTS }
}

/// Whether the weight file has a parameter.
pub fn is_exported(params: &Params, id: ParamId) -> bool {
    !params.has_adapters() || params.spec(id).trainable
}

/// Returns the names in the weight file.
fn exported(params: &Params, names: &HfNames, param: &HfParam) -> Vec<String> {
    let prefix = if params.has_adapters() { adapter::PREFIX } else { "" };
    names.exported(param).into_iter().map(|name| format!("{prefix}{name}")).collect()
}

/// Returns a unit's tensors under Hugging Face's names: each parameter's part of `whole` (weights or gradients,
/// `[padded]`), split into the tensors of the file.
pub fn parts(params: &Params, names: &HfNames, unit: usize, whole: &Tensor) -> Vec<(String, Tensor)> {
    let cut = |(id, tensor): (ParamId, Tensor)| {
        let param = names.of(&params.spec(id).name);
        exported(params, names, param).into_iter().zip(split(names, param, &tensor).into_iter().map(|(_, part)| part))
    };
    params.members(unit, whole).filter(|(id, _)| is_exported(params, *id)).flat_map(cut).collect()
}

/// Returns the tensors of a full model's file that a parameter with this value is stored as.
pub fn split(names: &HfNames, param: &HfParam, value: &Tensor) -> Vec<(String, Tensor)> {
    let heights: Vec<i64> = param.pieces(&value.size()).iter().map(|piece| piece[0]).collect();
    let pieces = value.split_with_sizes(heights, 0);
    names.exported(param).into_iter().zip(pieces.iter().map(|piece| param.form.to_file(piece))).collect()
}

/// Writes the model's configuration under this name, the files `carried` from `origin` to `folder`, and `more` files,
/// which replace those of the same names: the model without its weights.
///
/// # Errors
/// The file name and the system error.
pub fn write_files(
    folder: &Path,
    (name, config): (&str, &Value),
    (origin, carried): (&Path, &[&str]),
    more: &[(&str, String)],
) -> Result<()> {
    write_file(&folder.join(name), &serde_json::to_vec_pretty(config)?)?;
    let mut copied = carried.iter().filter(|name| !more.iter().any(|(replaced, _)| replaced == *name));
    copied.try_for_each(|name| copy_file(&origin.join(name), &folder.join(name)))?;
    more.iter().try_for_each(|(name, content)| write_file(&folder.join(name), content.as_bytes()))
}

/// Writes further JSON files of a model's folder, of these names, which may be in subfolders.
///
/// # Errors
/// The file name and the system error.
pub fn write_more(folder: &Path, files: &[(&'static str, Value)]) -> Result<()> {
    files.iter().try_for_each(|(name, content)| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).context(path.display())?;
        write_file(&path, &serde_json::to_vec_pretty(content)?)
    })
}
