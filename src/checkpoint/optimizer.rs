//! Optimizer state by parameter name, so that it can be loaded with any layout and world size.

use crate::checkpoint::ranges::{self, Target};
use crate::checkpoint::sharded::TensorFiles;
use crate::checkpoint::tensor_writer::Entry;
use crate::error::Result;
use crate::nn::Params;
use tch::{Kind, Tensor};

/// AdamW's moments in a checkpoint folder.
pub const MOMENTS: &str = "optimizer/adamw.safetensors";
/// The fp32 master weights of half-precision training.
pub const MASTERS: &str = "optimizer/master.safetensors";

/// A kind of state: one flat f32 buffer per trained unit. Its name is the prefix of parameter names in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    ExpAvg,
    ExpAvgSq,
    Master,
}

impl State {
    /// The states in the file [`MOMENTS`], in their order within a unit.
    pub const MOMENTS: [State; 2] = [State::ExpAvg, State::ExpAvgSq];

    fn of(self, parameter: &str) -> String {
        match self {
            State::ExpAvg => format!("exp_avg.{parameter}"),
            State::ExpAvgSq => format!("exp_avg_sq.{parameter}"),
            State::Master => parameter.to_owned(),
        }
    }

    /// Returns the tensors of a file with these states, in the order of [`State::parts`], unit by unit.
    pub fn entries(params: &Params, states: &[State]) -> Vec<Entry> {
        let trained = params.layout().units().iter().filter(|unit| unit.is_trained());
        let entry = |state: State, id| {
            let spec = params.spec(id);
            Entry { name: state.of(&spec.name), shape: spec.shape.clone(), kind: Kind::Float }
        };
        trained
            .flat_map(|unit| states.iter().flat_map(move |&state| unit.members.iter().map(move |&id| entry(state, id))))
            .collect()
    }

    /// Splits a unit's buffer, f32 `[padded]`, into tensors.
    pub fn parts(self, params: &Params, unit: usize, whole: &Tensor) -> Vec<(String, Tensor)> {
        params.members(unit, whole).map(|(id, part)| (self.of(&params.spec(id).name), part)).collect()
    }

    /// Whether a file contains this state of a parameter.
    pub fn is_in(self, file: &TensorFiles, parameter: &str) -> bool {
        file.contains(&self.of(parameter))
    }

    /// Reads what a rank owns of a unit's buffer into `target`, f32. With `thawed`, the state of parameters missing in
    /// the file, which were frozen before, stays as it is.
    ///
    /// # Errors
    /// Exit 2 with the name of a tensor that is missing or has another shape.
    pub fn read(self, file: &TensorFiles, params: &Params, unit: usize, target: Target, thawed: bool) -> Result<()> {
        let targets = [target];
        for &id in &params.layout().units()[unit].members {
            let spec = params.spec(id);
            let name = self.of(&spec.name);
            if !thawed || file.contains(&name) {
                let file = file.of(&name)?;
                file.expect_shape(&name, &spec.shape)?;
                ranges::copy(file, &name, &ranges::within(&targets, &params.layout().place(id).1))?;
            }
        }
        Ok(())
    }
}
