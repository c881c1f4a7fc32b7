//! A finished model on one rank, for the commands that read no data file.

use super::group::connect;
use super::linear_weights::LinearWeights;
use super::opening::load;
use super::reading::bare;
use crate::comm::Collective;
use crate::comm::select::Backend;
use crate::config::TaskKind;
use crate::error::{Error, Result};
use crate::models::family::DropoutOverrides;
use crate::tasks::Head;
use crate::train::downloads::{self, Wanted};
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, Loaded};
use crate::train::reading;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the folder of a finished model says about it.
pub(super) struct Finished {
    pub folder: ModelFolder,
    pub head: Head,
    /// The task that it was fine-tuned for.
    pub kind: TaskKind,
    pub declared: Declared,
}

/// Returns this process as its only rank; `command` is the command's name.
///
/// # Errors
/// Exit 2: several ranks.
pub(super) fn alone(command: &str) -> Result<Arc<dyn Collective>> {
    let comm = connect(Backend::Auto, Duration::from_secs(600), None)?;
    let why = || Error::input(format!("{command} runs on one rank: start it without mpirun"));
    let alone = if comm.world() == 1 { Ok(()) } else { Err(why()) };
    comm.agree(alone, command)?;
    Ok(comm)
}

impl Finished {
    /// Reads the folder of a model or an adapter, which is downloaded if it is a name on the Hub; `base_model` replaces
    /// the base model that an adapter names.
    ///
    /// # Errors
    /// Exit 2: a folder without a fine-tuned model, invalid files in it, a failed download.
    pub fn read(comm: &dyn Collective, folder: &Path, base_model: Option<&Path>) -> Result<Self> {
        downloads::fetch(comm, Wanted::default().model(folder, base_model, true))?;
        let model = ModelFolder::open(folder, base_model)?;
        let json = model.read_config().map_err(bare)?;
        let head = Head::of_config(&model.path, &json)?;
        let declared = Declared::read(&model.base, json, DropoutOverrides::default(), head.role())?;
        Ok(Finished { folder: model, kind: reading::kind(&head), head, declared })
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(self, comm: &Arc<dyn Collective>, weights: LinearWeights) -> Result<Loaded> {
        load(comm, &self.folder, self.declared, &self.head, weights)
    }
}
