//! The optimizer's moments by parameter name, so that any layout and any world can take them up again.

use crate::checkpoint::tensors::{self, TensorFile};
use crate::error::{Context, Error, Kind, Result};
use crate::nn::params::slice;
use crate::nn::{ParamId, Params};
use crate::optim::AdamW;
use std::fs;
use std::path::Path;
use tch::Tensor;

/// The file in a checkpoint folder.
pub const FILE: &str = "optimizer/adamw.safetensors";

/// The two moments of a parameter, as views into the flat state, with their names in the file.
fn moments(params: &Params, optimizer: &AdamW, id: ParamId) -> [(String, Tensor); 2] {
    let spec = params.spec(id);
    let moments = optimizer.moments(spec.stage);
    [("exp_avg", &moments.exp_avg), ("exp_avg_sq", &moments.exp_avg_sq)]
        .map(|(kind, flat)| (format!("{kind}.{}", spec.name), slice(flat, &params.range(id), &spec.shape)))
}

/// Writes `optimizer/` into a checkpoint folder.
///
/// # Errors
/// The file's name and what the system says.
pub fn write(folder: &Path, params: &Params, optimizer: &AdamW) -> Result<()> {
    let path = folder.join(FILE);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(parent.display())?;
    }
    tensors::write(&path, params.ids().flat_map(|id| moments(params, optimizer, id)).collect())
}

/// Reads the moments of a checkpoint that has seen `steps` steps.
///
/// # Errors
/// Exit 2, naming the tensor: one that is missing or has another shape.
pub fn read(folder: &Path, params: &Params, optimizer: &mut AdamW, steps: u64) -> Result<()> {
    let path = folder.join(FILE);
    let file = TensorFile::open(&path)?;
    for (name, mut target) in params.ids().flat_map(|id| moments(params, optimizer, id)) {
        let value = file.read(&name)?;
        if value.size() != target.size() {
            let (found, wanted) = (value.size(), target.size());
            return Err(Error::new(
                Kind::Input,
                format!("{}: {name} is {found:?}, the model's is {wanted:?}", path.display()),
            ));
        }
        target.copy_(&value);
    }
    optimizer.set_steps(steps);
    Ok(())
}
