//! `trainer evaluate`

use super::{EvaluateArgs, ReadingArgs, TargetArgs, backend, connect};
use crate::comm::Collective;
use crate::config::{self, DataConfig, OnBadRecord, TaskConfig, TaskKind};
use crate::data::{Prepared, prepare};
use crate::error::{Context, Error, Result};
use crate::models::registry::{self, DropoutOverrides};
use crate::observe::logs::tell;
use crate::observe::table::table;
use crate::parallel::Zero;
use crate::tasks::Head;
use crate::train::evaluate::Evaluator;
use crate::train::generate::Generation;
use crate::train::loaded::{Declared, Holding, Loaded, Source};
use crate::train::reading::{self, Purpose, Reading};
use crate::train::report::{device, remarks};
use crate::train::session::one_per_host_first;
use crate::train::sources::MAX_TARGET_LENGTH;
use serde_json::{Map, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tch::Kind;

/// Evaluates, on all ranks; rank 0 prints to standard output.
///
/// # Errors
/// Exit 2 for what is wrong with the model folder or the data.
pub fn run(args: &EvaluateArgs) -> Result<()> {
    let comm = args.reading.connect()?;
    let kind = comm.agree(args.task.parse::<TaskKind>().map_err(|e| e.context("--task")), "--task")?;
    let wanted = |head: &Head| match reading::kind(head) {
        own if own == kind || (own, kind) == (TaskKind::CausalLm, TaskKind::Chat) => Ok(kind),
        own => Err(Error::input(format!("--task {kind}: {} was fine-tuned for {own}", args.model.display()))),
    };
    let file = DataFile {
        option: "--data",
        path: &args.data,
        purpose: Purpose::Evaluate,
        targets: Some(&args.targets),
        on_bad_record: args.on_bad_record,
    };
    let generation = comm.agree(generation(args, kind), "reading how texts are generated")?;
    let (mut loaded, data) = open(&comm, &args.model, &file, &args.reading, wanted)?;
    let evaluator = args.reading.evaluator(comm.as_ref(), &mut loaded);
    let metrics = Evaluator { generation: generation.as_ref(), ..evaluator }.metrics(&data)?;
    if comm.is_main() {
        if args.json {
            let line: Map<_, _> = metrics.iter().map(|(name, value)| (format!("eval_{name}"), json!(value))).collect();
            println!("{}", serde_json::Value::Object(line));
        } else {
            let rows: Vec<_> =
                metrics.iter().map(|(name, value)| vec![(*name).to_owned(), format!("{value:.6}")]).collect();
            println!("{}", table(&["metric", &args.data.display().to_string()], &rows));
        }
    }
    Ok(())
}

/// How texts are generated, where they are asked for.
fn generation(args: &EvaluateArgs, kind: TaskKind) -> Result<Option<Generation>> {
    match (args.predict_with_generate, kind) {
        (true, TaskKind::Seq2seq) => {
            let longest = args.targets.max_target_length.unwrap_or(MAX_TARGET_LENGTH);
            Ok(Some(args.generation.open(&args.model)?.or_at_most(longest)))
        }
        (true, kind) => Err(Error::input(format!("--predict-with-generate: only seq2seq knows this, not {kind}"))),
        (false, _) => args.generation.refuse("nothing is generated without --predict-with-generate").map(|()| None),
    }
}

/// A data file outside a configuration.
pub(super) struct DataFile<'a> {
    /// The option that names it.
    pub option: &'static str,
    pub path: &'a Path,
    pub purpose: Purpose,
    /// Where they are wanted.
    pub targets: Option<&'a TargetArgs>,
    pub on_bad_record: OnBadRecord,
}

impl ReadingArgs {
    /// Joins the ranks.
    pub(super) fn connect(&self) -> Result<Arc<dyn Collective>> {
        connect(backend(self.backend), Duration::from_secs_f64(self.timeout_seconds), None).map_err(bare)
    }

    /// A loaded model, ready to run on all ranks.
    pub(super) fn evaluator<'a>(&self, comm: &'a dyn Collective, loaded: &'a mut Loaded) -> Evaluator<'a> {
        let Loaded { model, params, weights, .. } = loaded;
        Evaluator { model, params, weights, comm, micro_batch_tokens: self.micro_batch_tokens, generation: None }
    }

    /// The same as the `[data]` of a configuration.
    fn data_config(&self, file: &DataFile) -> DataConfig {
        let default = DataConfig::new(file.path.to_owned());
        DataConfig {
            max_length: self.max_length,
            text_column: self.text_column.clone(),
            text_pair_column: self.text_pair_column.clone(),
            label_column: self.label_column.clone(),
            source_column: self.source_column.clone(),
            target_column: file.targets.map_or(default.target_column, |targets| targets.target_column.clone()),
            eval_target: file.targets.and_then(|targets| targets.eval_target.clone()),
            words_column: self.words_column.clone(),
            tags_column: self.tags_column.clone(),
            question_column: self.question_column.clone(),
            context_column: self.context_column.clone(),
            choices_column: self.choices_column.clone(),
            columns: self.columns.clone(),
            header: self.header,
            on_bad_record: file.on_bad_record,
            format: self.format,
            documents: self.documents,
            prompt_column: self.prompt_column.clone(),
            completion_column: self.completion_column.clone(),
            messages_column: self.messages_column.clone(),
            ..default
        }
    }

    /// The same as the `[task]` of a configuration.
    fn task_config(&self, file: &DataFile, head: &Head, kind: TaskKind) -> TaskConfig {
        TaskConfig {
            source_prefix: self.source_prefix.clone(),
            max_target_length: file.targets.and_then(|targets| targets.max_target_length),
            packing: self.packing,
            mlm_probability: self.mlm_probability,
            whole_word_mask: self.whole_word_mask,
            next_sentence: (*head == Head::PreTraining).then_some(true),
            ..TaskConfig::new(kind)
        }
    }
}

/// Loads a finished model and a data file for it, and says on rank 0 what they are; `wanted` says what the model is used for.
pub(super) fn open(
    comm: &Arc<dyn Collective>,
    folder: &Path,
    file: &DataFile,
    options: &ReadingArgs,
    wanted: impl Fn(&Head) -> Result<TaskKind>,
) -> Result<(Loaded, Prepared)> {
    let declare = || -> Result<(Declared, Head, TaskConfig, DataConfig, usize)> {
        let json = registry::read_config(folder)?;
        let head = Head::of_config(folder, &json)?;
        let declared = Declared::read(folder, json, DropoutOverrides::default(), head.role())?;
        let (mut task, data) = (options.task_config(file, &head, wanted(&head)?), options.data_config(file));
        options.answers.apply(&mut task)?;
        if let Some((key, why)) = config::misplaced(&task, &data).first() {
            let option = key.rsplit('.').next().unwrap_or_default().replace('_', "-");
            return Err(Error::input(format!("--{option}: {}", why.replace("task.", "").replace("data.", ""))));
        }
        let max_length = declared.max_length(options.max_length, reading::usual_length(task.kind)).map_err(bare)?;
        Ok((declared, head, task, data, max_length))
    };
    let (declared, head, task, data_config, max_length) = comm.agree(declare(), "reading the model's configuration")?;
    let data = one_per_host_first(comm.as_ref(), "preparing the data", || {
        let labels = head.labels().map(<[String]>::to_vec);
        let reading =
            Reading { task: &task, data: &data_config, folder, max_length, purpose: file.purpose, labels, seed: 0 };
        let data = prepare(reading.encoder(file.path, file.option)?.as_ref(), folder, None)?;
        declared.check_vocabulary(&data)?;
        Ok(data)
    })?;
    let holding = Holding { kind: Kind::Float, zero: Zero::ALL[0], trains: false, seed: 0, from: Source::Folder };
    let loaded = declared.with_head(&head, &[]).and_then(|shaped| shaped.load(comm, &holding)).and_then(complete);
    let loaded = comm.agree(loaded.context(folder.display()), "loading the model")?;
    if comm.is_main() {
        let (examples, tokens) = (data.dataset.len(), data.dataset.total_tokens());
        let device = device(comm.as_ref());
        tell(&format!(
            "model     {} ({})\ndata      {}: {examples} example{}, {tokens} tokens{}\nranks     {} ({}, {device})",
            folder.display(),
            loaded.model.task.kind(),
            file.path.display(),
            if examples == 1 { "" } else { "s" },
            remarks(&data),
            comm.world(),
            comm.name(),
        ));
    }
    Ok((loaded, data))
}

/// A model that is to be used must have all of its weights.
fn complete(loaded: Loaded) -> Result<Loaded> {
    let missing = [loaded.report.fresh.as_slice(), loaded.report.reshaped.as_slice()].concat();
    if missing.is_empty() {
        return Ok(loaded);
    }
    Err(Error::input(format!("the head has no weights: {} (is it fine-tuned?)", missing.join(", "))))
}

/// The same error with the names of settings bare, as they are options here: there is no configuration with sections.
fn bare(e: Error) -> Error {
    let message = e.to_string().replace("data.max_length", "max_length").replace("comm.backend", "backend");
    let bare = Error::new(e.kind(), message);
    if e.is_shared() { bare.shared() } else { bare }
}
