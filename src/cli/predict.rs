//! `trainer predict`

use super::{PredictArgs, connect};
use crate::comm::select::Backend;
use crate::data::prepare::Target;
use crate::error::{Context, Result};
use crate::tasks::short;
use crate::train::evaluate::outputs;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// Predicts, on all ranks; rank 0 writes the output.
///
/// # Errors
/// Exit 2 for what is wrong with the model folder or the records; exit 1 for an output that cannot be written.
pub fn run(args: &PredictArgs) -> Result<()> {
    let comm = connect(Backend::Auto, Duration::from_secs(600), None)?;
    let (loaded, data) = super::evaluate::open(&comm, &args.model, &args.input, &args.reading, |_| Ok(Target::None))?;
    let (model, params) = (&loaded.model, &loaded.params);
    let outputs = outputs(model, params, &data.dataset, &comm, comm.device(), args.reading.micro_batch_tokens)?;
    let lines = outputs.logits.chunks_exact(model.task.outputs()).map(|logits| {
        let mut line = model.task.prediction(logits);
        if args.scores {
            line.insert("logits".into(), json!(logits.iter().copied().map(short).collect::<Vec<_>>()));
        }
        Value::Object(line)
    });
    let written = if comm.is_main() { write(&args.output, lines) } else { Ok(()) };
    comm.agree(written.context(args.output.display()), "writing the predictions")
}

fn write(path: &Path, lines: impl Iterator<Item = Value>) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    Ok(())
}
