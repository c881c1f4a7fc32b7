//! `trainer predict`

use super::generation::{self, GenerationArgs};
use super::opening::open;
use super::output::{Lines, Output};
use super::reading::{DataFile, ReadingArgs, bare};
use crate::comm::Collective;
use crate::config::{self, Config, DataConfig, DataFiles, OnBadRecord, TaskKind};
use crate::data::{Prepared, cache};
use crate::error::{Context, Error, Result};
use crate::hub;
use crate::observe::logs::tell;
use crate::tasks::Head;
use crate::text::columns::{self, Named};
use crate::text::files::Files;
use crate::text::{Fields, Format, OnBad, Source};
use crate::train::downloads;
use crate::train::generation::Generation;
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::Loaded;
use crate::train::reading::{self, Purpose};
use clap::Args;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::ErrorKind::BrokenPipe;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// `trainer predict`
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Folder of a fine-tuned model or checkpoint, or a model on the Hugging Face Hub (ORG/NAME).
    #[arg(long)]
    model: PathBuf,
    /// Input file, or a folder or pattern of files; labels are not needed. `-` reads standard input, as JSONL unless --format is given.
    #[arg(long, required_unless_present = "text")]
    input: Option<PathBuf>,
    /// Text to use instead of a file; can be repeated.
    #[arg(long, conflicts_with_all = ["input", "format", "columns", "header", "documents"], allow_hyphen_values = true)]
    text: Vec<String>,
    /// Output file with one line per record, in order: JSON lines, or CSV if the name ends with .csv [default: standard
    /// output, as with `-`].
    #[arg(long)]
    output: Option<PathBuf>,
    /// Input columns to copy to the output, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    keep: Vec<String>,
    /// Add logits to every line; for generated texts, token ids and their log-probabilities.
    #[arg(long)]
    scores: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// Runs prediction on all ranks; rank 0 writes the output.
///
/// # Errors
/// Exit 2: an invalid model folder, record or output path. Exit 1: an output that cannot be written.
pub fn run(args: &PredictArgs) -> Result<()> {
    let comm = args.reading.connect(None)?;
    // An unusable output path is reported before the work starts.
    let to = args.output.as_deref().filter(|path| *path != Path::new(STANDARD));
    let create =
        |path: &Path| Output::create(path, args.input.as_deref()).context(format!("--output {}", path.display()));
    let output = comm.is_main().then(|| to.map_or_else(|| Ok(Output::standard()), create)).transpose();
    let output = comm.agree(output, "opening the output")?;
    let input =
        args.input.as_ref().filter(|path| *path != Path::new(STANDARD)).map(|path| DataFiles::from(path.as_path()));
    downloads::fetch(comm.as_ref(), args.reading.wanted(&args.model, None).data_if(input.as_ref()))?;
    let trained = hub::model_folder(&args.model, false).and_then(|folder| Config::of_model(&folder));
    let trained = comm.agree(trained, "reading the configuration of the model")?;
    let folder = comm.agree(args.reading.folder(&args.model, None), "reading the model's folder")?;
    let input = Input::of(args, &folder, comm.as_ref(), trained.as_ref())?;
    let files = DataFiles::from(input.path.as_path());
    // Every record has its line of output, so none may be skipped.
    let file = DataFile {
        name: input.name.clone(),
        option: "--input",
        files: &files,
        purpose: Purpose::Predict,
        part: None,
        targets: None,
        on_bad_record: OnBadRecord::Error,
        // Tokens of temporary input are not worth caching.
        cache: cache::folder(None).filter(|_| !input.temporary),
    };
    let wanted = |head: &Head| match reading::kind(head) {
        // Input of a language model is read as chat prompts.
        TaskKind::CausalLm => Ok(TaskKind::Chat),
        TaskKind::Seq2seq => Ok(TaskKind::Seq2seq),
        kind => args
            .generation
            .refuse(&format!("{} was fine-tuned for {kind}, which generates no text", args.model.display()))
            .map(|()| kind),
    };
    // Errors of --keep are also reported before the work starts.
    let kept = comm.agree(kept(args, &input, trained.as_ref()), "--keep").map_err(|e| input.named(e))?;
    let opened = open(&comm, (&folder, trained.as_ref()), &[file], &args.reading, wanted);
    let (mut loaded, mut data) = opened.map_err(|e| input.named(e))?;
    let data = data.remove(0);
    let generates = loaded.model.task.kind().parse::<TaskKind>()?.generates();
    let rows = if generates {
        generated(args, &folder, comm.as_ref(), &mut loaded, &data)?
    } else {
        let outputs = args.reading.evaluator(comm.as_ref(), &mut loaded, None).outputs(&data.dataset)?;
        loaded.model.task.predictions(&outputs.results(&data), args.scores)
    };
    let rows = comm.agree(with_columns(rows, kept), "--keep").map_err(|e| input.named(e))?;
    let count = rows.len();
    let lines = Lines { rows, csv: to.is_some_and(|path| path.extension().is_some_and(|end| end == "csv")) };
    let written = output.map_or(Ok(()), |output| output.write(&lines));
    // A closed pipe is not an error.
    let written = written.or_else(|e| if to.is_none() && e.kind() == BrokenPipe { Ok(()) } else { Err(e) });
    let place = to.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    comm.agree(written.context(&place), "writing the predictions")?;
    if comm.is_main() {
        tell(&format!("{count} prediction{} written to {place}", if count == 1 { "" } else { "s" }));
    }
    Ok(())
}

/// Returns the input columns to copy to the output.
fn kept(args: &PredictArgs, input: &Input, trained: Option<&Config>) -> Result<Named<Value>> {
    if args.keep.is_empty() {
        return Ok(Named::default());
    }
    let data = args.reading.columns(trained, &input.path.as_path().into());
    let format = match data.format {
        None => None,
        Some(config::Format::Jsonl) => Some(Format::Jsonl),
        Some(config::Format::Csv) => Some(Format::Csv),
        Some(config::Format::Tsv) => Some(Format::Tsv),
        Some(config::Format::Parquet) => Some(Format::Parquet),
        Some(config::Format::Arrow) => Some(Format::Arrow),
        Some(other) => return Err(Error::input(format!("--keep: {}: {other} has no columns", input.name))),
    };
    let fields = Fields { text: data.text_column, text_pair: None, label: None, ..Fields::default() };
    let DataConfig { columns, header, .. } = data;
    let files = Files::find(&[&input.path]).context("--input")?;
    let source = Source { files, format, columns, header, fields, on_bad_record: OnBad::Error };
    columns::read(&source, &args.keep).context("--keep")
}

/// Prepends the kept columns to the predictions.
fn with_columns(rows: Vec<Map<String, Value>>, (names, kept): Named<Value>) -> Result<Vec<Map<String, Value>>> {
    if names.is_empty() {
        return Ok(rows);
    }
    if kept.len() != rows.len() {
        let (records, lines) = (kept.len(), rows.len());
        return Err(Error::input(format!("--keep: the file has {records} rows, but there are {lines} predictions")));
    }
    if let Some(name) = rows.first().and_then(|row| names.iter().find(|name| row.contains_key(*name))) {
        return Err(Error::input(format!(
            "--keep {name}: the predictions already have a column {name:?}: rename the column"
        )));
    }
    let joined = rows.into_iter().zip(kept).map(|(row, values)| names.iter().cloned().zip(values).chain(row).collect());
    Ok(joined.collect())
}

/// The name of standard input and output on a command line.
const STANDARD: &str = "-";

struct Input {
    path: PathBuf,
    /// The file's name in messages.
    name: String,
    /// Whether it is a temporary file, for standard input or `--text`.
    temporary: bool,
}

impl Input {
    /// Returns the input of a command. All ranks call it; rank 0 reads standard input for all.
    fn of(args: &PredictArgs, folder: &ModelFolder, comm: &dyn Collective, trained: Option<&Config>) -> Result<Self> {
        let standard = args.input.as_deref() == Some(Path::new(STANDARD));
        let (Some(path), false) = (&args.input, standard) else {
            let kind = || Ok(reading::kind(&Head::of_config(&folder.path, &folder.read_config().map_err(bare)?)?));
            let kind = comm.agree(kind(), "reading the model's configuration")?;
            let mut bytes = Vec::new();
            if standard && comm.is_main() {
                std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
            }
            let bytes = match standard {
                true => comm.broadcast_bytes(bytes, 0, "standard input")?,
                false => comm.agree(records(args, kind, trained), "--text")?.into_bytes(),
            };
            let name = if standard { "standard input" } else { "--text" }.to_owned();
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let file = format!("trainer-{}-{}-{since}.jsonl", std::process::id(), comm.rank());
            let input = Input { path: std::env::temp_dir().join(file), name, temporary: true };
            // Readable by the owner only: the input may be private.
            let open = || File::options().write(true).create_new(true).mode(0o600).open(&input.path);
            let written = open().and_then(|mut file| file.write_all(&bytes)).context(input.path.display());
            comm.agree(written, "a copy of the input")?;
            return Ok(input);
        };
        Ok(Input { path: path.clone(), name: path.display().to_string(), temporary: false })
    }

    /// Replaces the path of a temporary file in an error by the input's name.
    fn named(&self, e: Error) -> Error {
        let message = e.to_string().replace(&self.path.display().to_string(), &self.name);
        let named = Error::new(e.kind(), message);
        if e.is_shared() { named.shared() } else { named }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.temporary {
            // If this fails, the system cleans its temporary folder.
            _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the texts of `--text` as JSONL records of a task.
fn records(args: &PredictArgs, kind: TaskKind, trained: Option<&Config>) -> Result<String> {
    let data = args.reading.columns(trained.filter(|config| config.task.kind == kind), &DataFiles::default());
    if data.text_pair_column.is_some() && kind != TaskKind::Embedding {
        return Err(Error::input("--text: this model reads pairs of texts: use --input"));
    }
    let column = match kind {
        TaskKind::QuestionAnswering | TaskKind::MultipleChoice => {
            let why = format!("--text: {kind} reads records of several columns: use --input");
            return Err(Error::input(why));
        }
        TaskKind::Seq2seq => data.source_column,
        TaskKind::CausalLm | TaskKind::Chat => data.prompt_column,
        TaskKind::TokenClassification => data.words_column,
        _ => data.text_column,
    };
    let record = |text: &String| match kind {
        TaskKind::TokenClassification => json!({ &column: text.split_whitespace().collect::<Vec<_>>() }).to_string(),
        _ => json!({ &column: text }).to_string(),
    };
    Ok(args.text.iter().map(record).collect::<Vec<_>>().join("\n"))
}

/// Generates a text for every prompt; returns the output lines.
fn generated(
    args: &PredictArgs,
    folder: &ModelFolder,
    comm: &dyn Collective,
    loaded: &mut Loaded,
    data: &Prepared,
) -> Result<Vec<Map<String, Value>>> {
    let generation = args.generation.open(folder.generation(), None).and_then(Generation::ending_as_answers);
    let generation = comm.agree(generation, "reading the generation settings")?;
    let mut evaluator = args.reading.evaluator(comm, loaded, None);
    let texts = evaluator.texts(&data.dataset, &generation.settings, &generation.random_numbers())?;
    texts.iter().map(|text| generation::line(&generation, text, args.scores)).collect()
}
