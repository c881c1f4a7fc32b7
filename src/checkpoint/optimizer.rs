//! Optimizer state by parameter name, so that it can be loaded with any layout and world size.

use crate::checkpoint::ranges::{self, Target};
use crate::checkpoint::sharded::TensorFiles;
use crate::checkpoint::tensor_writer::Entry;
use crate::error::Result;
use crate::nn::{ParamId, Params};
use tch::{Kind, Tensor};

/// The fp32 master weights of half-precision training.
pub const MASTERS: &str = "optimizer/master.safetensors";
/// The exponential moving average of the weights.
pub const EMA: &str = "optimizer/ema.safetensors";

/// Returns the file with the state of an optimizer in a checkpoint folder.
pub fn file_of(optimizer: &str) -> String {
    format!("optimizer/{optimizer}.safetensors")
}

/// A kind of state: one flat f32 buffer per trained unit. Its name is the prefix of parameter names in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(&'static str);

impl State {
    /// Values of the weights, which have the name of their parameter.
    pub const WEIGHTS: State = State("");

    pub fn named(name: &'static str) -> Self {
        State(name)
    }

    /// Returns the name of the state of a parameter.
    pub fn of(self, parameter: &str) -> String {
        if self.0.is_empty() { parameter.to_owned() } else { format!("{}.{parameter}", self.0) }
    }

    /// Returns the tensors of a file with this state of parameters, in the order of [`State::parts`].
    pub fn entries(self, params: &Params, members: &[ParamId]) -> Vec<Entry> {
        let entry = |&id: &ParamId| {
            let spec = params.spec(id);
            Entry { name: self.of(&spec.name), shape: spec.shape.clone(), kind: Kind::Float }
        };
        members.iter().map(entry).collect()
    }

    /// Splits a unit's buffer, f32 `[padded]`, into the tensors of these of its parameters.
    pub fn parts(self, params: &Params, unit: usize, members: &[ParamId], whole: &Tensor) -> Vec<(String, Tensor)> {
        let all = params.members(unit, whole).filter(|(id, _)| members.contains(id));
        all.map(|(id, part)| (self.of(&params.spec(id).name), part)).collect()
    }

    /// Whether a file contains this state of a parameter.
    pub fn is_in(self, file: &TensorFiles, parameter: &str) -> bool {
        file.contains(&self.of(parameter))
    }

    /// Reads what a rank owns of the state of parameters, all of one unit, into `targets`, f32. With `thawed`, the state
    /// of parameters missing in the file, which were frozen before, stays as it is.
    ///
    /// # Errors
    /// Exit 2 with the name of a tensor that is missing or has another shape.
    pub fn read(
        self,
        file: &TensorFiles,
        params: &Params,
        members: &[ParamId],
        targets: &[Target],
        thawed: bool,
    ) -> Result<()> {
        for &id in members {
            let spec = params.spec(id);
            let name = self.of(&spec.name);
            if !thawed || file.contains(&name) {
                let file = file.of(&name)?;
                file.expect_shape(&name, &spec.shape)?;
                ranges::copy(file, &name, &ranges::within(targets, &params.layout().place(id).1))?;
            }
        }
        Ok(())
    }

    /// Reads the state of one parameter that every rank has in full, f32 of its shape.
    ///
    /// # Errors
    /// As [`State::read`].
    pub fn read_whole(self, file: &TensorFiles, parameter: &str, target: &Tensor, thawed: bool) -> Result<()> {
        let name = self.of(parameter);
        if thawed && !file.contains(&name) {
            return Ok(());
        }
        let file = file.of(&name)?;
        file.expect_shape(&name, &target.size())?;
        let size = target.numel() as i64;
        ranges::copy(file, &name, &[(0..size, target.view([-1]))])
    }
}
