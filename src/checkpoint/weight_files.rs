//! The weight files of a model folder and of an adapter folder, and an index of their tensors.

use crate::checkpoint::adapter::{self, AdapterConfig, PREFIX};
use crate::checkpoint::ranges::{self, Target};
use crate::checkpoint::sharded;
use crate::checkpoint::tensors::TensorFile;
use crate::checkpoint::weight_sets::{WEIGHTS, WeightSet};
use crate::error::{Error, Result};
use crate::models::hf_names::{HfNames, HfParam};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The folders that a model's weights are read from.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a> {
    pub model: &'a Path,
    /// The folder of an adapter of that model. What it has of the model's weights replaces them.
    pub adapter: Option<&'a Path>,
    /// The rows of the vocabulary in the files and in the model, if the model has more: new rows are the mean of the
    /// others.
    pub grows: Option<(i64, i64)>,
}

impl<'a> From<&'a Path> for Folders<'a> {
    fn from(model: &'a Path) -> Self {
        Folders { model, adapter: None, grows: None }
    }
}

/// Returns the set of weight files that a folder has: an adapter's, or a full model's.
pub fn weights_of(folder: &Path) -> PathBuf {
    folder.join(if AdapterConfig::is_in(folder) { adapter::WEIGHTS } else { WEIGHTS })
}

/// Ends of the names that quantized weights have beside or instead of the weights: of GPTQ and AWQ, compressed-tensors,
/// bitsandbytes, and fp8 with scales.
const OF_QUANTIZED: &[&str] = &[
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight_format",
    ".SCB",
];

/// Ends of the dtypes' names of full weights, in the safetensors format.
const OF_FULL: &[&str] = &["F64", "F32", "F16", "BF16"];

/// The weight files of a folder and an index of their tensors.
pub(super) struct Weights {
    pub(super) files: Vec<(PathBuf, TensorFile)>,
    /// Exported name -> (file, name in the file).
    pub(super) tensors: BTreeMap<String, (usize, String)>,
    /// The exported names of the tensors that an adapter's file has.
    pub(super) adapter: BTreeSet<String>,
}

/// Refuses weights that are packed by quantization. What `config.json` says about it does not matter: a folder may have
/// full weights and a forgotten `quantization_config`.
fn refuse_quantized(path: &Path, file: &TensorFile) -> Result<()> {
    for name in file.names() {
        let dtype = file.dtype_name(&name)?;
        let is_packed = name.ends_with(".weight") && !OF_FULL.contains(&&*dtype);
        if is_packed || OF_QUANTIZED.iter().any(|end| name.ends_with(end)) {
            return Err(Error::input(format!(
                "{}: tensor {name} ({dtype}): these weights are quantized, and only full weights are fine-tuned: use \
                 the folder of the model that is not quantized, or load this one in transformers and save it after \
                 model.dequantize()",
                path.display()
            )));
        }
    }
    Ok(())
}

impl Weights {
    pub(super) fn open(folders: Folders, names: &HfNames) -> Result<Self> {
        let WeightSet { files: paths, set } = WeightSet::of(folders.model)?;
        if paths.is_empty() {
            return Err(WeightSet::none_in(folders.model));
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
        set.map_or(Ok(()), |set| sharded::check_index(&set, &files))?;
        files.iter().try_for_each(|(path, file)| refuse_quantized(path, file))?;
        let mut weights = Weights { files, tensors, adapter: BTreeSet::new() };
        folders.adapter.map_or(Ok(()), |adapter| weights.replace(adapter, names))?;
        Ok(weights)
    }

    /// Adds the tensors of an adapter's file, which replace the model's of the same name.
    fn replace(&mut self, folder: &Path, names: &HfNames) -> Result<()> {
        let path = adapter::weights_in(folder);
        let file = TensorFile::open(&path)?;
        for name in file.names() {
            let bare = names.normalised(name.strip_prefix(PREFIX).unwrap_or(&name));
            self.adapter.insert(bare.clone());
            self.tensors.insert(bare, (self.files.len(), name));
        }
        self.files.push((path, file));
        Ok(())
    }

    pub(super) fn present_aliases<'a>(&self, param: &'a HfParam) -> Vec<&'a String> {
        param.aliases.iter().filter(|name| self.tensors.contains_key(*name)).collect()
    }

    /// Returns error messages for tied weights that differ in the files.
    pub(super) fn differences(&self, param: &HfParam, names: &HfNames) -> Result<Vec<String>> {
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

    /// Returns the norms of the rows of tensors, joined, f32. They are those of the weights in the compute dtype `kind`.
    pub(super) fn norms(&self, names: &[String], param: &HfParam, kind: Kind) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let rows = i64::from(param.form.transposed);
        let norms = names.iter().map(|name| -> Result<Tensor> {
            let (file, spelling) = self.at(name);
            let weight = file.read(spelling)?.to_kind(kind).to_kind(Kind::Float);
            Ok(weight.f_linalg_norm(2.0, [1 - rows].as_slice(), false, Kind::Float)?)
        });
        Ok(Tensor::f_cat(&norms.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Returns a tensor with rows, or numbers, added so that it has as many as `shape`; each is the mean of the others.
    pub(super) fn grown(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let (file, spelling) = self.at(name);
        let values = file.read(spelling)?;
        let values = if values.kind() == Kind::Double { values } else { values.to_kind(Kind::Float) };
        let mut rows = shape.to_vec();
        rows[0] = -1;
        let values = values.f_view(rows.as_slice())?;
        let mut more = shape.to_vec();
        more[0] -= values.size()[0];
        let mean = values.f_mean_dim([0i64].as_slice(), true, values.kind())?.f_expand(more.as_slice(), false)?;
        Ok(Tensor::f_cat(&[values, mean], 0)?)
    }

    /// Whether two existing tensors have equal values.
    fn same(&self, one: &str, other: &str) -> Result<bool> {
        let ((file, name), (its_file, its_name)) = (self.at(one), self.at(other));
        file.equals(name, its_file, its_name)
    }

    pub(super) fn shape(&self, name: &str) -> Result<Vec<i64>> {
        let (file, spelling) = self.at(name);
        file.shape(spelling)
    }

    /// Returns the file of an existing tensor, and its name there.
    pub(super) fn at(&self, name: &str) -> (&TensorFile, &str) {
        let (file, spelling) = &self.tensors[name];
        (&self.files[*file].1, spelling)
    }

    /// Copies parts of a parameter: the tensors of the files joined along dimension 0.
    pub(super) fn copy(&self, targets: &[Target], names: &[String], param: &HfParam, shape: &[i64]) -> Result<()> {
        let mut start = 0;
        for (name, piece) in names.iter().zip(param.pieces(shape)) {
            let (file, spelling) = self.at(name);
            if !matches!(file.kind(spelling)?, Kind::Double | Kind::Float | Kind::Half | Kind::BFloat16) {
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
