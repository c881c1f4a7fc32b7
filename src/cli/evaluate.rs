//! `trainer evaluate`

use super::class_report;
use super::config_keys::OverrideParser;
use super::generation::GenerationArgs;
use super::reading::{DataFile, ReadingArgs, TargetArgs, bare};
use crate::comm::Collective;
use crate::config::{self, Config, DataConfig, DataFiles, TaskConfig, TaskKind};
use crate::data::{Prepared, cache, prepare};
use crate::error::{Context, Error, Result};
use crate::hub;
use crate::models::family::DropoutOverrides;
use crate::observe;
use crate::observe::logs::{tell, warn, wrap};
use crate::observe::table::table;
use crate::parallel::Zero;
use crate::tasks::Head;
use crate::text::part::Part;
use crate::train::downloads;
use crate::train::evaluate::{Evaluation, Evaluator};
use crate::train::generation::Generation;
use crate::train::lora::Lora;
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, LoadOptions, Loaded, Source};
use crate::train::reading::{self, Purpose, Reading};
use crate::train::report::{device, remarks};
use crate::train::session::{one_per_host_first, tokenizing};
use crate::train::sources::MAX_TARGET_LENGTH;
use clap::Args;
use serde_json::{Map, json};
use std::path::PathBuf;
use std::sync::Arc;
use tch::Kind;

/// `trainer evaluate`
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Configuration of a finished run whose final model is evaluated on its data.eval, with the settings of the run.
    config: Option<PathBuf>,
    /// Settings that override the configuration.
    #[arg(value_name = "KEY=VALUE", requires = "config", value_parser = OverrideParser, hide_possible_values = true)]
    overrides: Vec<String>,
    /// Folder of a fine-tuned model or checkpoint, or a model on the Hugging Face Hub (ORG/NAME).
    #[arg(long, required_unless_present = "config")]
    model: Option<PathBuf>,
    /// Task, such as sequence-classification [default: the task that the model was fine-tuned for].
    #[arg(long)]
    task: Option<String>,
    /// Labeled data file.
    #[arg(long, required_unless_present = "config")]
    data: Option<PathBuf>,
    #[command(flatten)]
    targets: TargetArgs,
    /// Print one JSON line instead of a table.
    #[arg(long)]
    json: bool,
    /// Also print precision, recall and F1 of each class, and the confusion matrix.
    #[arg(long)]
    report: bool,
    /// What to do with invalid records: error or skip [default: error].
    #[arg(long, value_name = "ACTION")]
    on_bad_record: Option<config::OnBadRecord>,
    /// Also generate a target for each source and compare it with the reference, for seq2seq.
    #[arg(long)]
    predict_with_generate: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// Evaluates a model on all ranks; rank 0 prints to standard output.
///
/// # Errors
/// Exit 2: an invalid model folder or invalid data.
pub fn run(args: &EvaluateArgs) -> Result<()> {
    let subject = Subject::of(args);
    let comm = args.reading.connect(subject.as_ref().ok().and_then(Subject::run))?;
    let subject = comm.agree(subject, "reading what to evaluate")?;
    let Subject { model, data, part, targets, config, .. } = &subject;
    let wanted = |head: &Head| {
        let own = reading::kind(head);
        let fits = |kind| own == kind || (own, kind) == (TaskKind::CausalLm, TaskKind::Chat);
        let trained = config.as_ref().map(|config| config.task.kind);
        match args.task.as_deref().map(str::parse).transpose().map_err(|e: Error| e.context("--task"))? {
            Some(kind) if fits(kind) => Ok(kind),
            Some(kind) => Err(Error::input(format!("--task {kind}: {} was fine-tuned for {own}", model.display()))),
            None => Ok(trained.filter(|&kind| fits(kind)).unwrap_or(own)),
        }
    };
    let file = DataFile {
        name: match (part, subject.run().and_then(|run| run.data.eval_split)) {
            (Some(_), Some(split)) => format!("{data} ({split})"),
            _ => data.to_string(),
        },
        option: if args.data.is_some() { "--data" } else { "data.eval" },
        part: *part,
        files: data,
        purpose: Purpose::Evaluate,
        targets: Some(targets),
        on_bad_record: args.on_bad_record.or(subject.run().map(|run| run.data.on_bad_record)).unwrap_or_default(),
        cache: cache::folder(subject.run().and_then(|run| run.data.cache_dir.as_deref())),
    };
    let on_hub = args.reading.wanted(model, subject.run()).data(data).data_if(targets.eval_target.as_ref());
    downloads::fetch(comm.as_ref(), on_hub)?;
    let folder = comm.agree(args.reading.folder(model, subject.run()), "reading the model's folder")?;
    let (mut loaded, data) = open(&comm, (&folder, config.as_ref()), &file, &args.reading, wanted)?;
    let kind = loaded.model.task.kind().parse()?;
    const WITH_CLASSES: [TaskKind; 3] =
        [TaskKind::SequenceClassification, TaskKind::MultiLabel, TaskKind::TokenClassification];
    if args.report && !WITH_CLASSES.contains(&kind) {
        return Err(Error::input(format!("--report: {kind} has no classes: remove it")).shared());
    }
    let generation = comm.agree(generation(args, &subject, &folder, kind), "reading the generation settings")?;
    let evaluator = args.reading.evaluator(comm.as_ref(), &mut loaded, subject.run());
    let Evaluation { metrics, report, warning, .. } =
        Evaluator { generation: generation.as_ref(), ..evaluator }.metrics(&data, args.report)?;
    if comm.is_main() {
        let positive = loaded.model.task.positive_label();
        if args.json {
            let numbers = metrics.iter().map(|(name, value)| (format!("eval_{name}"), json!(value)));
            let report = report.map(|report| ("report".to_owned(), class_report::json(&report)));
            let label = positive.map(|label| ("positive_label".to_owned(), json!(label)));
            let line: Map<_, _> = numbers.chain(label).chain(report).collect();
            observe::print(&format!("{}\n", serde_json::Value::Object(line)));
        } else {
            let numbers = metrics.iter().map(|(name, value)| vec![(*name).to_owned(), format!("{value:.6}")]);
            let label = positive.map(|label| vec!["positive label".to_owned(), label.to_owned()]);
            let rows: Vec<_> = numbers.chain(label).collect();
            observe::print(&format!("{}\n", table(&["metric", &file.name], &rows)));
            report.iter().for_each(|report| observe::print(&format!("{}\n", class_report::tables(report))));
        }
        warning.as_deref().into_iter().for_each(warn);
    }
    Ok(())
}

/// The model and the data of an evaluation.
struct Subject {
    model: PathBuf,
    data: DataFiles,
    /// What was held out of the data, if it was trained on.
    part: Option<Part>,
    targets: TargetArgs,
    /// The configuration of the model's training.
    config: Option<Config>,
    /// Whether the configuration was given on the command line; then all of it applies to the evaluation.
    is_run: bool,
}

impl Subject {
    /// Returns the configuration of the run that is evaluated, if one was given.
    fn run(&self) -> Option<&Config> {
        self.config.as_ref().filter(|_| self.is_run)
    }

    /// # Errors
    /// Exit 2: a configuration that cannot be read, or without data to evaluate on.
    fn of(args: &EvaluateArgs) -> Result<Self> {
        let run = args.config.as_ref().map(|path| Config::load(Some(path), &args.overrides)).transpose()?;
        let is_run = run.is_some();
        let missing = |what: &str| Error::input(format!("{what} is missing: give it, or the configuration of a run"));
        let model = args.model.clone().or_else(|| Some(run.as_ref()?.output_dir.join("final")));
        let model = model.ok_or_else(|| missing("--model"))?;
        if args.model.is_none() && !model.exists() {
            let why = format!("{}: this run has no final model (yet): give a model with --model", model.display());
            return Err(Error::input(why));
        }
        let split =
            run.as_ref().filter(|_| args.data.is_none()).and_then(|run| Some((run, reading::trained_part(run)?)));
        let data = args.data.clone().map(DataFiles::from).or_else(|| run.as_ref()?.data.eval.clone());
        let data = data.or_else(|| split.map(|(run, _)| run.data.train.clone()));
        let data = data.ok_or_else(|| match &args.config {
            Some(path) => {
                let why = "has neither data.eval nor data.eval_split: give a file with --data";
                Error::input(format!("{} {why}", path.display()))
            }
            None => missing("--data"),
        })?;
        let part = split.map(|(_, part)| part.held_out());
        let mut targets = args.targets.clone();
        if args.data.is_none() {
            let of_run = |run: &Config| match split {
                Some(_) => run.data.train_target.clone(),
                None => run.data.eval_target.clone(),
            };
            targets.eval_target = targets.eval_target.or_else(|| of_run(run.as_ref()?));
        }
        let of_model = || Config::of_model(&hub::model_folder(&model, false)?);
        let config = run.map_or_else(of_model, |config| Ok(Some(config)))?;
        Ok(Subject { model, data, part, targets, config, is_run })
    }
}

/// Returns the settings of generation, if the evaluation generates texts.
fn generation(
    args: &EvaluateArgs,
    subject: &Subject,
    folder: &ModelFolder,
    kind: TaskKind,
) -> Result<Option<Generation>> {
    let of_run = subject.run().is_some_and(|run| run.task.predict_with_generate && kind == TaskKind::Seq2seq);
    match (args.predict_with_generate || of_run, kind) {
        (true, TaskKind::Seq2seq) => {
            let trained = subject.config.as_ref().and_then(|config| config.task.max_target_length);
            let longest = subject.targets.max_target_length.or(trained).unwrap_or(MAX_TARGET_LENGTH);
            Ok(Some(args.generation.open(folder.generation(), subject.run())?.or_at_most(longest)))
        }
        (true, kind) => Err(Error::input(format!("--predict-with-generate: only seq2seq knows this, not {kind}"))),
        (false, _) => args.generation.refuse("nothing is generated without --predict-with-generate").map(|()| None),
    }
}

/// Loads a finished model and a data file, and logs on rank 0 what they are. `wanted` chooses the task; `trained` is
/// the configuration of the model's training, if there is one.
pub(super) fn open(
    comm: &Arc<dyn Collective>,
    (model, trained): (&ModelFolder, Option<&Config>),
    file: &DataFile,
    options: &ReadingArgs,
    wanted: impl Fn(&Head) -> Result<TaskKind>,
) -> Result<(Loaded, Prepared)> {
    let declare = || -> Result<(Declared, Head, TaskConfig, DataConfig, usize)> {
        let json = model.read_config().map_err(bare)?;
        let head = Head::of_config(&model.path, &json)?;
        let declared = Declared::read(&model.base, json, DropoutOverrides::default(), head.role())?;
        let kind = wanted(&head)?;
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
        let max_length = declared.max_length(given, reading::usual_length(task.kind)).map_err(bare)?;
        Ok((declared, head, task, data, max_length))
    };
    let (declared, head, task, data_config, max_length) = comm.agree(declare(), "reading the model's configuration")?;
    let data = one_per_host_first(comm.as_ref(), "preparing the data", || {
        let labels = head.labels().map(<[String]>::to_vec);
        let folder = model.tokenizer();
        let (task, data, purpose, part) = (&task, &data_config, file.purpose, file.part);
        let reading = Reading { task, data, folder, max_length, purpose, labels, seed: 0, part, words: false };
        let encoder = reading.encoder(file.files, file.option)?;
        let phase = tokenizing(&file.name);
        let data = prepare(encoder.as_ref(), folder, file.cache.as_deref())?;
        drop(phase);
        declared.check_vocabulary(&data)?;
        Ok(data)
    })?;
    let loaded = load(comm, model, declared, &head)?;
    if comm.is_main() {
        let (examples, tokens) = (data.dataset.len(), data.dataset.total_tokens());
        let device = device(comm.as_ref());
        let lines = [
            format!(
                "model     {} ({})",
                model.named.display(),
                if file.purpose == Purpose::Predict { reading::kind(&head) } else { task.kind }
            ),
            format!(
                "data      {}: {examples} example{}, {tokens} tokens{}",
                file.name,
                if examples == 1 { "" } else { "s" },
                remarks(&data)
            ),
            format!("ranks     {} ({}, {device})", comm.world(), comm.name()),
        ];
        tell(&lines.map(|line| wrap(&line, 10)).join("\n"));
    }
    Ok((loaded, data))
}

/// Loads a finished model, whole on every rank.
///
/// # Errors
/// Exit 2: invalid or missing weights.
pub(super) fn load(comm: &Arc<dyn Collective>, model: &ModelFolder, declared: Declared, head: &Head) -> Result<Loaded> {
    let holding =
        LoadOptions { kind: Kind::Float, zero: Zero::ALL[0], trains: false.into(), seed: 0, from: Source::Folder };
    let shaped = Lora::of_model(model).and_then(|lora| declared.with_head(head).with_adapters(lora.as_ref()));
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
