//! `--weights` of the commands that run a finished model.

use crate::error::{Error, Result};
use crate::tasks::Head;
use crate::train::model_folder::ModelFolder;
use crate::train::reading;
use clap::ValueEnum;
use tch::Device;

/// How the weights of linear layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum LinearWeights {
    #[default]
    Fp32,
    /// 8-bit integers with a scale for each output.
    Int8,
}

impl LinearWeights {
    /// Refuses int8 where it is not supported.
    ///
    /// # Errors
    /// Exit 2.
    pub(super) fn check(self, device: Device, model: &ModelFolder, head: &Head) -> Result<()> {
        let kind = reading::kind(head);
        let refuse = |why: String| Err(Error::input(format!("--weights int8: {why}")));
        match self {
            LinearWeights::Fp32 => Ok(()),
            LinearWeights::Int8 if device != Device::Cpu => {
                let why = "int8 weights are for CPUs, and the model would run on a GPU: remove it, or hide the GPUs";
                refuse(format!("{why} (CUDA_VISIBLE_DEVICES=)"))
            }
            LinearWeights::Int8 if kind.generates() => {
                refuse(format!("{kind} models generate text, which is supported in fp32 only: remove it"))
            }
            LinearWeights::Int8 if model.adapter.is_some() => {
                let adapter = model.named.display();
                refuse(format!("the model is an adapter: merge it first (trainer merge {adapter} FOLDER)"))
            }
            LinearWeights::Int8 => Ok(()),
        }
    }
}
