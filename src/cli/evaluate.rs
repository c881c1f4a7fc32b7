//! `trainer evaluate`

use super::class_report;
use super::config_keys::OverrideParser;
use super::generation::GenerationArgs;
use super::opening::open;
use super::reading::{DataFile, ReadingArgs, TargetArgs};
use crate::config::{self, Config, DataFiles, TaskKind};
use crate::data::cache;
use crate::error::{Context, Error, Result};
use crate::hub;
use crate::observe;
use crate::observe::logs::warn;
use crate::observe::table::table;
use crate::tasks::Head;
use crate::text::part::Part;
use crate::train::downloads;
use crate::train::evaluate::{Details, Evaluation, Evaluator};
use crate::train::generation::Generation;
use crate::train::model_folder::ModelFolder;
use crate::train::reading::{self, Purpose};
use crate::train::sources::EVAL_SETS;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// `trainer evaluate`
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Configuration of a finished run whose final model is evaluated on its evaluation data, with the settings of the
    /// run.
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
    /// Labeled data file; can be given several times.
    #[arg(long, required_unless_present = "config", value_name = "FILE")]
    data: Vec<PathBuf>,
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
    let comm = args.reading.connect(subject.as_ref().ok().and_then(|subject| subject.run.as_ref()))?;
    let subject = comm.agree(subject, "reading what to evaluate")?;
    let Subject { model, sets, run } = &subject;
    let on_hub = sets.iter().fold(args.reading.wanted(model, run.as_ref()), |wanted, set| {
        wanted.data(&set.files).data_if(set.targets.eval_target.as_ref())
    });
    downloads::fetch(comm.as_ref(), on_hub)?;
    let of_model = || Config::of_model(&hub::model_folder(model, false)?);
    let config = run.clone().map_or_else(of_model, |run| Ok(Some(run)));
    let config = &comm.agree(config, "reading the configuration of the model")?;
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
    let cache = cache::folder(run.as_ref().and_then(|run| run.data.cache_dir.as_deref()));
    let on_bad = args.on_bad_record.or(run.as_ref().map(|run| run.data.on_bad_record)).unwrap_or_default();
    let file = sets.iter().map(|set| DataFile {
        name: set.name.clone(),
        option: set.option,
        part: set.part,
        files: &set.files,
        purpose: Purpose::Evaluate,
        targets: Some(&set.targets),
        on_bad_record: on_bad,
        cache: cache.clone(),
    });
    let files: Vec<DataFile> = file.collect();
    let folder = comm.agree(args.reading.folder(model, run.as_ref()), "reading the model's folder")?;
    let (mut loaded, data) = open(&comm, (&folder, config.as_ref()), &files, &args.reading, wanted)?;
    let kind = loaded.model.task.kind().parse()?;
    const WITH_CLASSES: [TaskKind; 3] =
        [TaskKind::SequenceClassification, TaskKind::MultiLabel, TaskKind::TokenClassification];
    if args.report && !WITH_CLASSES.contains(&kind) {
        return Err(Error::input(format!("--report: {kind} has no classes: remove it")).shared());
    }
    let generation = generation(args, [run, config].map(Option::as_ref), &folder, kind);
    let generation = comm.agree(generation, "reading the generation settings")?;
    let evaluator = args.reading.evaluator(comm.as_ref(), &mut loaded, run.as_ref());
    let mut evaluator = Evaluator { generation: generation.as_ref(), ..evaluator };
    let mut found: Vec<(&str, Evaluation)> = Vec::new();
    for (set, data) in sets.iter().zip(&data) {
        let evaluation = evaluator.metrics(data, if args.report { Details::Classes } else { Details::None });
        let evaluation = if sets.len() > 1 { evaluation.context(&set.name) } else { evaluation };
        found.push((&set.name, evaluation?));
    }
    if comm.is_main() {
        let positive = loaded.model.task.positive_label();
        observe::print(&if args.json { json_lines(&found, positive) } else { tables(&found, positive) });
        for (name, evaluation) in &found {
            let named = |warning: &String| if found.len() > 1 { format!("{name}: {warning}") } else { warning.clone() };
            evaluation.warning.iter().for_each(|warning| warn(&named(warning)));
        }
    }
    Ok(())
}

/// Returns a line for each evaluation, with the name of the data if there are several.
fn json_lines(evaluations: &[(&str, Evaluation)], positive: Option<&str>) -> String {
    let line = |(name, evaluation): &(&str, Evaluation)| {
        let numbers = evaluation.metrics.iter().map(|(name, value)| (format!("eval_{name}"), json!(value)));
        let report = evaluation.report.as_ref().map(|report| ("report".to_owned(), class_report::json(report)));
        let label = positive.map(|label| ("positive_label".to_owned(), json!(label)));
        let data = (evaluations.len() > 1).then(|| ("data".to_owned(), json!(name)));
        format!("{}\n", Value::Object(data.into_iter().chain(numbers).chain(label).chain(report).collect()))
    };
    evaluations.iter().map(line).collect()
}

/// Returns a table with a column for each evaluation, and their tables of classes.
fn tables(evaluations: &[(&str, Evaluation)], positive: Option<&str>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in evaluations.iter().flat_map(|(_, evaluation)| &evaluation.metrics) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let number = |evaluation: &Evaluation, wanted: &str| {
        let value = evaluation.metrics.iter().find(|(name, _)| *name == wanted);
        value.map_or_else(String::new, |(_, value)| format!("{value:.6}"))
    };
    let row = |name: &str, cell: &dyn Fn(&Evaluation) -> String| -> Vec<String> {
        [name.to_owned()].into_iter().chain(evaluations.iter().map(|(_, evaluation)| cell(evaluation))).collect()
    };
    let mut rows: Vec<_> = names.iter().map(|name| row(name, &|evaluation| number(evaluation, name))).collect();
    rows.extend(positive.map(|label| row("positive label", &|_| label.to_owned())));
    let head: Vec<&str> = ["metric"].into_iter().chain(evaluations.iter().map(|(name, _)| *name)).collect();
    let mut text = format!("{}\n", table(&head, &rows));
    for (name, evaluation) in evaluations {
        let Some(report) = &evaluation.report else { continue };
        if evaluations.len() > 1 {
            text += &format!("\n{name}\n");
        }
        text += &format!("{}\n", class_report::tables(report));
    }
    text
}

/// What a model is evaluated on.
struct Set {
    name: String,
    /// The option or setting that names it.
    option: &'static str,
    files: DataFiles,
    /// What was held out of the data, if it was trained on.
    part: Option<Part>,
    targets: TargetArgs,
}

/// The model and the data of an evaluation.
struct Subject {
    model: PathBuf,
    /// At least one.
    sets: Vec<Set>,
    /// The configuration of the run that is evaluated, if one was given: all of it applies to the evaluation.
    run: Option<Config>,
}

impl Subject {
    /// # Errors
    /// Exit 2: a configuration that cannot be read, or without data to evaluate on.
    fn of(args: &EvaluateArgs) -> Result<Self> {
        let run = args.config.as_ref().map(|path| Config::load(Some(path), &args.overrides)).transpose()?;
        let missing = |what: &str| Error::input(format!("{what} is missing: give it, or the configuration of a run"));
        let model = args.model.clone().or_else(|| Some(run.as_ref()?.output_dir.join("final")));
        let model = model.ok_or_else(|| missing("--model"))?;
        if args.model.is_none() && !model.exists() {
            let why = format!("{}: this run has no final model (yet): give a model with --model", model.display());
            return Err(Error::input(why));
        }
        let sets = match &run {
            _ if !args.data.is_empty() => Set::given(args)?,
            Some(run) => Set::of_run(run, &args.targets),
            None => return Err(missing("--data")),
        };
        if let ([], Some(path)) = (sets.as_slice(), &args.config) {
            let why = "has neither data.eval nor data.eval_split: give a file with --data";
            return Err(Error::input(format!("{} {why}", path.display())));
        }
        Ok(Subject { model, sets, run })
    }
}

impl Set {
    /// Returns the sets of the command line.
    fn given(args: &EvaluateArgs) -> Result<Vec<Self>> {
        if args.data.len() > 1 && args.targets.eval_target.is_some() {
            return Err(Error::input("--eval-target: has the targets of one file, and --data is given several times"));
        }
        let set = |path: &PathBuf| {
            let (files, targets) = (DataFiles::from(path.clone()), args.targets.clone());
            Set { name: files.to_string(), option: "--data", files, part: None, targets }
        };
        Ok(args.data.iter().map(set).collect())
    }

    /// Returns those of a run: the main one, if there is one, and those of `data.eval_sets`.
    fn of_run(run: &Config, targets: &TargetArgs) -> Vec<Self> {
        let of = |eval_target: &Option<DataFiles>| {
            let own = targets.eval_target.clone().or_else(|| eval_target.clone());
            TargetArgs { eval_target: own, ..targets.clone() }
        };
        let data = &run.data;
        let mut sets = Vec::new();
        if let Some(files) = &data.eval {
            let (files, targets) = (files.clone(), of(&data.eval_target));
            sets.push(Set { name: files.to_string(), option: "data.eval", files, part: None, targets });
        } else if let (Some(part), Some(split)) = (reading::trained_part(run), data.eval_split) {
            let (files, targets) = (data.train.clone(), of(&data.train_target));
            let (name, part) = (format!("{files} ({split})"), Some(part.held_out()));
            sets.push(Set { name, option: "data.train", files, part, targets });
        }
        let set = |(name, files): (&str, &DataFiles)| {
            let (name, files) = (name.to_owned(), files.clone());
            Set { name, option: EVAL_SETS, files, part: None, targets: of(&None) }
        };
        sets.extend(data.eval_sets.iter().map(set));
        sets
    }
}

/// Returns the settings of generation, if the evaluation generates texts: from the options, the run that is evaluated,
/// and the configuration of the model's training.
fn generation(
    args: &EvaluateArgs,
    [run, trained]: [Option<&Config>; 2],
    folder: &ModelFolder,
    kind: TaskKind,
) -> Result<Option<Generation>> {
    let of_run = run.is_some_and(|run| run.task.predict_with_generate && kind == TaskKind::Seq2seq);
    match (args.predict_with_generate || of_run, kind) {
        (true, TaskKind::Seq2seq) => {
            let trained = trained.and_then(|config| config.task.target_length());
            let longest = args.targets.max_target_length.or(trained).unwrap_or(config::MAX_TARGET_LENGTH);
            Ok(Some(args.generation.open(folder.generation(), run)?.or_at_most(longest)))
        }
        (true, kind) => Err(Error::input(format!("--predict-with-generate: only seq2seq knows this, not {kind}"))),
        (false, _) => args.generation.refuse("nothing is generated without --predict-with-generate").map(|()| None),
    }
}
