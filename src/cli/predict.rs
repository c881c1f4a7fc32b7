//! `trainer predict`

use super::PredictArgs;
use super::evaluate::{DataFile, open};
use super::generation;
use crate::comm::Collective;
use crate::config::{Config, OnBadRecord, TaskKind};
use crate::data::Prepared;
use crate::error::{Context, Error, Result};
use crate::models::registry;
use crate::observe::logs::tell;
use crate::tasks::Head;
use crate::train::generate::Generation;
use crate::train::loaded::Loaded;
use crate::train::reading::{self, Purpose};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Predicts, on all ranks; rank 0 writes the output.
///
/// # Errors
/// Exit 2 for what is wrong with the model folder, the records or the output's place; exit 1 for an output that cannot
/// be written.
pub fn run(args: &PredictArgs) -> Result<()> {
    let comm = args.reading.connect()?;
    // Before the work: what is wrong with the output's place must not cost it.
    let to = args.output.as_deref().filter(|path| *path != Path::new(STANDARD));
    let create =
        |path: &Path| Output::create(path, args.input.as_deref()).context(format!("--output {}", path.display()));
    let output = comm.is_main().then(|| to.map_or_else(|| Ok(Output::standard()), create)).transpose();
    let output = comm.agree(output, "opening the output")?;
    let trained = comm.agree(Config::of_model(&args.model), "reading the configuration of the model")?;
    let input = Input::of(args, comm.as_ref(), trained.as_ref())?;
    // Every record has its line of output, so none is left out.
    let file = DataFile {
        name: input.name.clone(),
        option: "--input",
        path: &input.path,
        purpose: Purpose::Predict,
        targets: None,
        on_bad_record: OnBadRecord::Error,
    };
    let wanted = |head: &Head| match reading::kind(head) {
        // What is asked of a language model is read as what is said to it.
        TaskKind::CausalLm => Ok(TaskKind::Chat),
        TaskKind::Seq2seq => Ok(TaskKind::Seq2seq),
        kind => args
            .generation
            .refuse(&format!("{} was fine-tuned for {kind}, which generates no text", args.model.display()))
            .map(|()| kind),
    };
    let opened = open(&comm, (&args.model, trained.as_ref()), &file, &args.reading, wanted);
    let (mut loaded, data) = opened.map_err(|e| input.named(e))?;
    let generates = loaded.model.task.kind().parse::<TaskKind>()?.generates();
    let lines = if generates {
        generated(args, comm.as_ref(), &mut loaded, &data)?
    } else {
        let outputs = args.reading.evaluator(comm.as_ref(), &mut loaded).outputs(&data.dataset)?;
        let lines = loaded.model.task.predictions(&outputs.results(&data), args.scores);
        lines.into_iter().map(Value::Object).collect()
    };
    let count = lines.len();
    let written = output.map_or(Ok(()), |output| output.write(lines.into_iter()));
    // A reader that has enough must not end anything.
    let written =
        written.or_else(|e| if to.is_none() && e.to_string().contains("Broken pipe") { Ok(()) } else { Err(e) });
    let place = to.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    comm.agree(written.context(&place), "writing the predictions")?;
    if comm.is_main() {
        tell(&format!("{count} prediction{} written to {place}", if count == 1 { "" } else { "s" }));
    }
    Ok(())
}

/// The name of standard input and output on a command line.
const STANDARD: &str = "-";

/// The file with the records.
struct Input {
    path: PathBuf,
    /// What messages call it.
    name: String,
    /// Whether it is one of our own, for standard input or `--text`.
    temporary: bool,
}

impl Input {
    /// All ranks call it; rank 0 reads standard input for all.
    fn of(args: &PredictArgs, comm: &dyn Collective, trained: Option<&Config>) -> Result<Self> {
        let standard = args.input.as_deref() == Some(Path::new(STANDARD));
        let (Some(path), false) = (&args.input, standard) else {
            let kind = || Ok(reading::kind(&Head::of_config(&args.model, &registry::read_config(&args.model)?)?));
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
            // For nobody else: it may be private.
            let open = || File::options().write(true).create_new(true).mode(0o600).open(&input.path);
            let written = open().and_then(|mut file| file.write_all(&bytes)).context(input.path.display());
            comm.agree(written, "a copy of the input")?;
            return Ok(input);
        };
        Ok(Input { path: path.clone(), name: path.display().to_string(), temporary: false })
    }

    /// The error in the words of the command line.
    fn named(&self, e: Error) -> Error {
        let message = e.to_string().replace(&self.path.display().to_string(), &self.name);
        let named = Error::new(e.kind(), message);
        if e.is_shared() { named.shared() } else { named }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.temporary {
            // A file of ours in a temporary folder: the system removes it too.
            _ = fs::remove_file(&self.path);
        }
    }
}

/// The texts of `--text` as the records of a task.
fn records(args: &PredictArgs, kind: TaskKind, trained: Option<&Config>) -> Result<String> {
    let data = args.reading.columns(trained.filter(|config| config.task.kind == kind));
    if data.text_pair_column.is_some() {
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

/// A line for every prompt.
fn generated(args: &PredictArgs, comm: &dyn Collective, loaded: &mut Loaded, data: &Prepared) -> Result<Vec<Value>> {
    let generation = args.generation.open(&args.model).and_then(Generation::ending_as_answers);
    let generation = comm.agree(generation, "reading how texts are generated")?;
    let mut evaluator = args.reading.evaluator(comm, loaded);
    let texts = evaluator.texts(&data.dataset, &generation.settings, &generation.draw())?;
    texts.iter().map(|text| generation::line(&generation, text, args.scores)).collect()
}

/// A file beside the output that takes its name when all is written; one that is dropped before leaves nothing behind.
struct Output {
    file: Box<dyn Write>,
    /// The file's name for now and its final one; `None` for a pipe or a device, which is written to as it is.
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// # Errors
    /// Exit 2: it is the input, it is a folder or lies in none, or nobody may write there.
    fn create(path: &Path, input: Option<&Path>) -> Result<Self> {
        let there = fs::metadata(path).ok();
        let input = input.and_then(|input| fs::canonicalize(input).ok());
        if there.is_some() && input.is_some() && fs::canonicalize(path).ok() == input {
            return Err(Error::input("this is the input too, which would be lost; name another file"));
        }
        if there.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(Error::input("this is a folder; name a file in it"));
        }
        if there.is_some_and(|there| !there.is_file()) {
            let file = File::options().write(true).open(path).input_context("it cannot be opened")?;
            return Ok(Output { file: Box::new(file), names: None });
        }
        // A link keeps pointing to the file.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Error::input(format!("no such folder: {}; create it first", folder.display())));
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create_new(&temporary).input_context(temporary.display())?;
        Ok(Output { file: Box::new(file), names: Some((temporary, target)) })
    }

    fn standard() -> Self {
        Output { file: Box::new(std::io::stdout()), names: None }
    }

    fn write(mut self, lines: impl Iterator<Item = Value>) -> Result<()> {
        let mut file = BufWriter::new(&mut self.file);
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()?;
        drop(file);
        if let Some((temporary, target)) = &self.names {
            fs::rename(temporary, target)?;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.names {
            // After the renaming it is gone.
            _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_output_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let [input, path] = ["in.jsonl", "out.jsonl"].map(|name| dir.path().join(name));
        fs::write(&input, "kept").unwrap();
        drop(Output::create(&path, Some(&input)).unwrap());
        assert_eq!(files(dir.path()), ["in.jsonl"]);

        fs::write(&path, "before").unwrap();
        let output = Output::create(&path, Some(&input)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        output.write([json!({"a": 1}), json!({"b": 2})].into_iter()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(files(dir.path()), ["in.jsonl", "out.jsonl"]);
    }

    #[test]
    fn a_link_and_a_device_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| dir.path().join(name));
        fs::write(&target, "before").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        Output::create(&link, Some(Path::new("in"))).unwrap().write([json!(1)].into_iter()).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "1\n");
        let device = Output::create(Path::new("/dev/null"), Some(Path::new("in"))).unwrap();
        assert!(device.names.is_none());
        device.write([json!(1)].into_iter()).unwrap();
    }

    #[test]
    fn places_that_cannot_be_an_output_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.jsonl");
        fs::write(&input, "kept").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        let missing = dir.path().join("nowhere/out.jsonl");
        let cases = [
            (&input, "the input"),
            (&link, "the input"),
            (&missing, "no such folder"),
            (&dir.path().into(), "a folder"),
        ];
        for (path, says) in cases {
            let e = Output::create(path, Some(&input)).err().unwrap();
            assert!(e.kind() == Kind::Input && e.to_string().contains(says), "{path:?}: {e}");
        }
        assert_eq!(fs::read_to_string(&input).unwrap(), "kept");
    }
}
