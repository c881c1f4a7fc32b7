//! `trainer predict`

use super::PredictArgs;
use super::evaluate::{DataFile, open};
use super::generation;
use crate::comm::Collective;
use crate::config::{OnBadRecord, TaskKind};
use crate::data::Prepared;
use crate::error::{Context, Error, Result};
use crate::observe::logs::tell;
use crate::tasks::Head;
use crate::train::generate::Generation;
use crate::train::loaded::Loaded;
use crate::train::reading::{self, Purpose};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Predicts, on all ranks; rank 0 writes the output.
///
/// # Errors
/// Exit 2 for what is wrong with the model folder, the records or the output's place; exit 1 for an output that cannot
/// be written.
pub fn run(args: &PredictArgs) -> Result<()> {
    let comm = args.reading.connect()?;
    // Before the work: what is wrong with the output's place must not cost it.
    let output = comm.is_main().then(|| Output::create(&args.output, &args.input)).transpose();
    let output = comm.agree(output.context(format!("--output {}", args.output.display())), "opening the output")?;
    // Every record has its line of output, so none is left out.
    let file = DataFile {
        option: "--input",
        path: &args.input,
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
    let (mut loaded, data) = open(&comm, &args.model, &file, &args.reading, wanted)?;
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
    comm.agree(written.context(args.output.display()), "writing the predictions")?;
    if comm.is_main() {
        tell(&format!("{count} predictions written to {}", args.output.display()));
    }
    Ok(())
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
    file: File,
    /// The file's name for now and its final one; `None` for a pipe or a device, which is written to as it is.
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// # Errors
    /// Exit 2: it is the input, it is a folder or lies in none, or nobody may write there.
    fn create(path: &Path, input: &Path) -> Result<Self> {
        let there = fs::metadata(path).ok();
        if there.is_some() && fs::canonicalize(path).is_ok_and(|path| Some(path) == fs::canonicalize(input).ok()) {
            return Err(Error::input("this is the input too, which would be lost; name another file"));
        }
        if there.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(Error::input("this is a folder; name a file in it"));
        }
        if there.is_some_and(|there| !there.is_file()) {
            let file = File::options().write(true).open(path).input_context("it cannot be opened")?;
            return Ok(Output { file, names: None });
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
        Ok(Output { file, names: Some((temporary, target)) })
    }

    fn write(self, lines: impl Iterator<Item = Value>) -> Result<()> {
        let mut file = BufWriter::new(&self.file);
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()?;
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
    use serde_json::json;

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
        drop(Output::create(&path, &input).unwrap());
        assert_eq!(files(dir.path()), ["in.jsonl"]);

        fs::write(&path, "before").unwrap();
        let output = Output::create(&path, &input).unwrap();
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
        Output::create(&link, Path::new("in")).unwrap().write([json!(1)].into_iter()).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "1\n");
        let device = Output::create(Path::new("/dev/null"), Path::new("in")).unwrap();
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
            let e = Output::create(path, &input).err().unwrap();
            assert!(e.kind() == Kind::Input && e.to_string().contains(says), "{path:?}: {e}");
        }
        assert_eq!(fs::read_to_string(&input).unwrap(), "kept");
    }
}
