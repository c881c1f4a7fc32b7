//! `trainer init`

use super::train::DEFAULT_CONFIG;
use crate::error::{Error, Result};
use crate::observe;
use crate::train::draft::draft;
use clap::Args;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

/// `trainer init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Training file (of parallel text that of the sources), or a folder with the files of a data set. A file of the
    /// same folder that is named after validation (`dev`, `validation`, ...) becomes the evaluation data.
    data: PathBuf,
    /// Folder of the pretrained model.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// File to write; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    output: PathBuf,
}

/// Writes a configuration for the data, and prints what was found and what to do next.
///
/// # Errors
/// Exit 2: as [`draft`]; a file that exists or cannot be written.
pub fn run(args: &InitArgs) -> Result<()> {
    let draft = draft(&args.data, args.model.as_deref())?;
    if args.output.as_os_str() == "-" {
        observe::print(&draft.text);
        return Ok(());
    }
    let refuse = |e: &dyn std::fmt::Display| Error::input(format!("{}: {e}", args.output.display()));
    let file = File::create_new(&args.output).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => refuse(&"the file exists: remove it, or name another one with --output"),
        _ => refuse(&e),
    });
    file?.write_all(draft.text.as_bytes()).map_err(|e| {
        // An incomplete file would be in the way of the next try.
        _ = fs::remove_file(&args.output);
        refuse(&e)
    })?;
    let path = args.output.display();
    observe::print(&format!("data      {}\ntask      {}\nwrote     {path}\n", draft.found, draft.kind));
    if let Some(left_out) = &draft.left_out {
        observe::print(&format!("eval      {left_out}\n"));
    }
    if draft.lacks_weights {
        observe::print("model     no weight files: they are newly initialized (model.init)\n");
    }
    let next = match draft.lacks_model {
        true => format!("set model.path in {path}, then: trainer train {path}"),
        false => format!("trainer train {path}"),
    };
    observe::print(&format!("next      {next}\n"));
    Ok(())
}
