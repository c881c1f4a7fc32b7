//! Opens a finished model with data, for the commands that use one.

use super::linear_weights::LinearWeights;
use super::reading::{DataFile, ReadingArgs, bare};
use crate::comm::Collective;
use crate::config::{self, Config, DataConfig, TaskConfig, TaskKind};
use crate::data::{Prepared, prepare};
use crate::error::{Context, Error, Result};
use crate::models::family::DropoutOverrides;
use crate::observe::logs::{tell, wrap};
use crate::parallel::Zero;
use crate::tasks::Head;
use crate::train::lora::Lora;
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, LoadOptions, Loaded, Source};
use crate::train::reading::{self, Purpose, Reading};
use crate::train::report::{device, remarks};
use crate::train::session::{one_per_host_first, tokenizing};
use std::sync::Arc;
use tch::Kind;

/// Loads a finished model and data files, each as a dataset, and logs on rank 0 what they are. `wanted` chooses the task;
/// `trained` is the configuration of the model's training, if there is one.
pub(super) fn open(
    comm: &Arc<dyn Collective>,
    (model, trained): (&ModelFolder, Option<&Config>),
    files: &[DataFile],
    options: &ReadingArgs,
    wanted: impl Fn(&Head) -> Result<TaskKind>,
) -> Result<(Loaded, Vec<Prepared>)> {
    let declare = || -> Result<(Declared, Head, TaskKind)> {
        let json = model.read_config().map_err(bare)?;
        let mut head = Head::of_config(&model.path, &json)?;
        if let (Head::Embedding(head), Some(scale)) = (&mut head, trained.and_then(|config| config.task.scale)) {
            head.scale = scale;
        }
        let declared = Declared::read(&model.base, json, DropoutOverrides::default(), head.role())?;
        let kind = wanted(&head)?;
        Ok((declared, head, kind))
    };
    let (declared, head, kind) = comm.agree(declare(), "reading the model's configuration")?;
    let settings = |file: &DataFile| -> Result<(TaskConfig, DataConfig, usize)> {
        let fitting = trained.filter(|config| config.task.kind == kind);
        let (mut task, mut data) =
            (options.task_config(file, &head, kind, fitting), options.data_config(file, fitting));
        // The prompts for a language model may be in the column of its training texts.
        if let (Some(config), TaskKind::Chat) = (trained, kind)
            && config.task.kind == TaskKind::CausalLm
        {
            data.text_column = options.text_column.clone().unwrap_or_else(|| config.data.text_column.clone());
        }
        options.answers.apply(&mut task)?;
        if let Some((key, why)) = config::misplaced(&task, &data).first() {
            let option = key.rsplit('.').next().unwrap_or_default().replace('_', "-");
            return Err(Error::input(format!("--{option}: {}", why.replace("task.", "").replace("data.", ""))));
        }
        // A prompt is truncated to the model's limit, not to the max_length of training.
        let prompt = file.purpose == Purpose::Predict && kind.generates() && kind != TaskKind::Seq2seq;
        let given = if prompt { options.max_length } else { data.max_length };
        let max_length = declared.max_length(given, reading::usual_length(task.kind, &model.path)?).map_err(bare)?;
        if let Some(longest) = task.target_length().filter(|_| file.purpose != Purpose::Predict) {
            declared.check_targets(longest).map_err(bare)?;
        }
        Ok((task, data, max_length))
    };
    let read = |file: &DataFile| -> Result<Prepared> {
        let (task, data, max_length) = settings(file)?;
        let labels = head.labels().map(<[String]>::to_vec);
        let folder = model.tokenizer();
        let (task, data, purpose, part) = (&task, &data, file.purpose, file.part);
        let reading = Reading { task, data, folder, max_length, purpose, labels, seed: 0, part, words: false };
        let encoder = reading.encoder(file.files, file.option)?;
        let phase = tokenizing(&file.name);
        let data = prepare(encoder.as_ref(), folder, file.cache.as_deref())?;
        drop(phase);
        declared.check_vocabulary(&data)?;
        Ok(data)
    };
    let data: Vec<Prepared> =
        one_per_host_first(comm.as_ref(), "preparing the data", || files.iter().map(read).collect())?;
    let loaded = load(comm, model, declared, &head, options.weights)?;
    if comm.is_main() {
        let device = device(comm.as_ref());
        let predicts = files.iter().all(|file| file.purpose == Purpose::Predict);
        let kind = if predicts { reading::kind(&head) } else { kind };
        let mut lines = vec![format!("model     {} ({kind})", model.named.display())];
        for (file, data) in files.iter().zip(&data) {
            let (examples, tokens) = (data.dataset.len(), data.dataset.total_tokens());
            let plural = if examples == 1 { "" } else { "s" };
            let remarks = remarks(data);
            lines.push(format!("data      {}: {examples} example{plural}, {tokens} tokens{remarks}", file.name));
        }
        lines.push(format!("ranks     {} ({}, {device})", comm.world(), comm.name()));
        tell(&lines.iter().map(|line| wrap(line, 10)).collect::<Vec<_>>().join("\n"));
    }
    Ok((loaded, data))
}

/// Loads a finished model, whole on every rank.
///
/// # Errors
/// Exit 2: invalid or missing weights; int8 where it is not supported.
pub(super) fn load(
    comm: &Arc<dyn Collective>,
    model: &ModelFolder,
    declared: Declared,
    head: &Head,
    weights: LinearWeights,
) -> Result<Loaded> {
    comm.agree(weights.check(comm.device(), model, head), "--weights")?;
    let holding =
        LoadOptions { kind: Kind::Float, zero: Zero::ALL[0], trains: false.into(), seed: 0, from: Source::Folder };
    let shaped = Lora::of_model(model).and_then(|lora| declared.with_head(head).with_adapters(lora.as_ref()));
    let shaped = shaped.map(|shaped| if weights == LinearWeights::Int8 { shaped.with_int8() } else { shaped });
    let loaded = shaped.and_then(|shaped| shaped.load(comm, &holding)).and_then(complete);
    comm.agree(loaded.context(model.named.display()), "loading the model")
}

/// Refuses a model that lacks weights.
fn complete(loaded: Loaded) -> Result<Loaded> {
    let missing = [loaded.report.missing.as_slice(), loaded.report.mismatched.as_slice()].concat();
    if missing.is_empty() {
        return Ok(loaded);
    }
    Err(Error::input(format!("the head has no weights: {} (is the model fine-tuned?)", missing.join(", "))))
}
