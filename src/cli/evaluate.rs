//! `trainer evaluate`

use super::{EvaluateArgs, ReadingArgs, connect};
use crate::comm::Collective;
use crate::comm::select::Backend;
use crate::config::TaskKind;
use crate::data::prepare::{Prepared, Target, prepare};
use crate::error::{Context, Error, Result};
use crate::models::registry::{self, DropoutOverrides};
use crate::observe::table::table;
use crate::text::records::{Fields, OnBad, Source};
use crate::train::evaluate::evaluate;
use crate::train::session::{Declared, Head, Loaded, one_per_host_first};
use serde_json::{Map, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(600);

/// Evaluates, on all ranks; rank 0 prints to standard output.
///
/// # Errors
/// Exit 2 for what is wrong with the model folder or the data.
pub fn run(args: &EvaluateArgs) -> Result<()> {
    let comm = connect(Backend::Auto, TIMEOUT, None)?;
    let kind = comm.agree(args.task.parse::<TaskKind>().map_err(|e| e.context("--task")), "--task")?;
    let wanted = |head: &Head| match (kind, head) {
        (TaskKind::SequenceClassification, Head::Classes(_)) | (TaskKind::Regression, Head::Number) => {
            Ok(head.target())
        }
        _ => {
            let own = if *head == Head::Number { TaskKind::Regression } else { TaskKind::SequenceClassification };
            Err(Error::input(format!("--task {kind}: {} was fine-tuned for {own}", args.model.display())))
        }
    };
    let (loaded, data) = open(&comm, &args.model, &args.data, &args.reading, wanted)?;
    let (model, params) = (&loaded.model, &loaded.params);
    let tokens = args.reading.micro_batch_tokens;
    let metrics = evaluate(model, params, &data.dataset, &comm, comm.device(), tokens)?;
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

/// Loads a finished model and a data file for it; `target` says how labels are read.
pub(super) fn open(
    comm: &Arc<dyn Collective>,
    folder: &Path,
    file: &Path,
    reading: &ReadingArgs,
    target: impl Fn(&Head) -> Result<Target>,
) -> Result<(Loaded, Prepared)> {
    let declare = || -> Result<(Declared, Head, usize)> {
        let json = registry::read_config(folder)?;
        let head = Head::of_config(folder, &json)?;
        let declared = Declared::read(folder, json, DropoutOverrides::default())?;
        let max_length = declared.max_length(reading.max_length)?;
        Ok((declared, head, max_length))
    };
    let (declared, head, max_length) = comm.agree(declare(), "reading the model's configuration")?;
    let data = one_per_host_first(comm.as_ref(), "preparing the data", || {
        let target = target(&head)?;
        if !file.exists() {
            return Err(Error::input(format!("no such file: {}", file.display())));
        }
        let source = Source {
            path: file.to_owned(),
            format: None,
            columns: reading.columns.clone(),
            header: None,
            fields: Fields {
                text: reading.text_column.clone(),
                text_pair: reading.text_pair_column.clone(),
                label: (target != Target::None).then(|| reading.label_column.clone()),
            },
            on_bad_record: OnBad::Error,
        };
        let data = prepare(&source, folder, max_length, &target, None, true)?;
        declared.check_vocabulary(&data)?;
        Ok(data)
    })?;
    let loaded = declared.load(&head, comm.device(), 0).and_then(complete);
    Ok((comm.agree(loaded.context(folder.display()), "loading the model")?, data))
}

/// A model that is to be used must have all of its weights.
fn complete(loaded: Loaded) -> Result<Loaded> {
    let missing = [loaded.report.fresh.as_slice(), loaded.report.reshaped.as_slice()].concat();
    if missing.is_empty() {
        return Ok(loaded);
    }
    Err(Error::input(format!("the head has no weights: {} (is it fine-tuned?)", missing.join(", "))))
}
