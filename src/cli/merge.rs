//! `trainer merge`

use super::linear_weights::LinearWeights;
use super::opening::load;
use super::reading::bare;
use crate::checkpoint::tensor_writer::{Entry, Writer};
use crate::checkpoint::tensors::TensorFile;
use crate::checkpoint::weight_sets::{WEIGHTS, WeightSet};
use crate::checkpoint::{export, folder};
use crate::comm::Collective;
use crate::comm::solo::Solo;
use crate::config::MODEL_FILE;
use crate::error::{Context, Error, Result};
use crate::models::family::DropoutOverrides;
use crate::nn::{ParamId, Params, lora};
use crate::observe::logs::tell;
use crate::tasks::Head;
use crate::text::tokenizer::Tokenizer;
use crate::train::carried;
use crate::train::downloads::{self, Wanted};
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, Loaded};
use crate::train::reading;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// `trainer merge`
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Folder of an adapter: a run's final model or checkpoint, or one that peft saved; or its name on the Hugging Face
    /// Hub.
    adapter: PathBuf,
    /// Folder to create for the full model.
    output: PathBuf,
    /// Folder of the base model, if it was moved [default: as in adapter_config.json].
    #[arg(long, value_name = "FOLDER")]
    base_model: Option<PathBuf>,
}

/// Writes a full model: each adapted weight W becomes `W + s B A`, with DoRA's magnitudes if the adapter has them. It is
/// computed in fp32 on the CPU and stored in the dtype of the base model.
///
/// # Errors
/// Exit 2: a folder that is no adapter's, an adapter of another model, or an output that exists.
pub fn run(args: &MergeArgs) -> Result<()> {
    let MergeArgs { adapter, output, base_model } = args;
    let comm: Arc<dyn Collective> = Arc::new(Solo::new(Device::Cpu));
    downloads::fetch(comm.as_ref(), Wanted::default().model(adapter, base_model.as_deref(), true))?;
    let model = ModelFolder::open(adapter, base_model.as_deref())?;
    let json = model.read_config().map_err(bare)?;
    if model.adapter.is_none() {
        return Err(Error::input(format!("{}: not an adapter (no adapter_config.json)", adapter.display())));
    }
    if output.exists() {
        return Err(Error::input(format!("{}: exists already: choose another folder", output.display())));
    }
    let head = Head::of_config(&model.path, &json)?;
    let declared = Declared::read(&model.base, json, DropoutOverrides::default(), head.role())?;
    let loaded = load(&comm, &model, declared, &head, LinearWeights::Fp32)?;
    let kind = stored_kind(&model.base)?;
    folder::replace(output, false, |to| write(&loaded, &model, kind, to))?;
    let adapted = loaded.params.ids().filter(|&id| adapter_of(&loaded.params, id)).count();
    let base = model.named_base.display();
    tell(&format!("merged {adapted} adapters into {base}: {} ({kind:?})", output.display()));
    Ok(())
}

/// Returns the dtype of the base model's files.
fn stored_kind(base: &Path) -> Result<Kind> {
    for path in WeightSet::of(base)?.files {
        let file = TensorFile::open(&path)?;
        for name in file.names() {
            let kind = file.kind(&name)?;
            if matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half) {
                return Ok(kind);
            }
        }
    }
    Ok(Kind::Float)
}

fn adapter_of(params: &Params, id: ParamId) -> bool {
    params.spec(id).linear.as_ref().is_some_and(|slot| slot.adapter().is_some())
}

fn write(loaded: &Loaded, model: &ModelFolder, kind: Kind, to: &Path) -> Result<()> {
    let Loaded { params, names, .. } = loaded;
    let files = [model.tokenizer(), model.generation()];
    let missing = Tokenizer::missing_files(files[0])?;
    let carried = (files[0], &carried::of_folder(files[0])?[..]);
    export::write_files(to, ("config.json", &loaded.model.config_json(kind)), carried, &missing)?;
    let generation = files[1].join(export::GENERATION_FILE);
    if generation.exists() {
        folder::copy_file(&generation, &to.join(export::GENERATION_FILE))?;
    }
    let task = &loaded.model.task;
    let max_length = reading::usual_length(task.kind().parse()?, &model.path)?.unwrap_or_default();
    export::write_more(to, &task.folder_files(max_length))?;
    let settings = model.path.join(MODEL_FILE);
    if settings.exists() {
        folder::copy_file(&settings, &to.join(MODEL_FILE))?;
    }
    let whole = || params.ids().filter(|&id| !params.spec(id).adapter);
    let tensors = |id: ParamId, value: &Tensor| export::split(names, names.of(&params.spec(id).name), value);
    let entries = whole().flat_map(|id| tensors(id, params.view(id)));
    let entries = entries.map(|(name, tensor)| Entry { name, shape: tensor.size(), kind }).collect();
    let mut file = Writer::create(&to.join(WEIGHTS), entries)?;
    for id in whole() {
        for (name, tensor) in tensors(id, &merged(params, id)) {
            file.write(&name, &tensor)?;
        }
    }
    file.finish().context(to.display())
}

/// Returns a weight with its adapter, if it has one.
fn merged(params: &Params, id: ParamId) -> Tensor {
    let view = params.view(id).detach();
    let Some(adapter) = params.spec(id).linear.as_ref().and_then(|slot| slot.adapter()) else { return view };
    let [a, b] = [adapter.a, adapter.b].map(|id| params.view(id));
    lora::merged(adapter, &view, a, b, adapter.magnitude.map(|id| params.view(id)))
}
