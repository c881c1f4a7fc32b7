//! `trainer report`

use crate::error::Result;
use crate::observe;
use crate::train::page::{RunFolder, compare};
use clap::Args;
use std::path::PathBuf;

/// `trainer report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folders (output_dir), or folders that contain run folders, such as that of a sweep.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// File to write.
    #[arg(long, value_name = "FILE", default_value = "runs.html")]
    output: PathBuf,
}

/// Writes the page that compares the runs, and prints its path.
///
/// # Errors
/// As [`RunFolder::read`]; a file that cannot be written.
pub fn run(args: &ReportArgs) -> Result<()> {
    let read: Vec<Vec<RunFolder>> = args.runs.iter().map(|path| RunFolder::read(path)).collect::<Result<_>>()?;
    let runs: Vec<RunFolder> = read.into_iter().flatten().collect();
    compare(&runs).write(&args.output)?;
    observe::print(&format!("{}\n", args.output.display()));
    Ok(())
}
