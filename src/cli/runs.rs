//! What `trainer sweep` and other commands that start several runs share.

use super::parse::at_least_one;
use crate::comm::nccl;
use crate::error::{Error, Kind, Result};
use crate::launch::runs::{Outcome, RESULTS, Start};
use crate::machine::cpus;
use clap::Args;
use std::path::{Path, PathBuf};

/// Options of commands that start several runs.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Ranks of each run [default: one per GPU, or one per NUMA node without GPUs].
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one)]
    ranks: Option<usize>,
    /// Number of runs at the same time, which share the GPUs or the cores of this machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    parallel: usize,
}

impl RunsArgs {
    /// Returns how runs are started in `folder`.
    ///
    /// # Errors
    /// Exit 2 if `--parallel` needs more GPUs than there are.
    pub fn start(&self, command: &'static str, folder: &Path, config_file: Option<PathBuf>) -> Result<Start> {
        let mut options: Vec<String> = self.ranks.iter().flat_map(|n| ["-n".to_owned(), n.to_string()]).collect();
        let mut slots = vec![Vec::new(); self.parallel];
        if self.parallel > 1 {
            let parallel = self.parallel;
            let ranks =
                self.ranks.ok_or_else(|| Error::input("--parallel needs -n, the number of ranks of each run"))?;
            let gpus = devices(nccl::gpus()?);
            if gpus.is_empty() {
                let threads = (cpus::our_cores().len() / (parallel * ranks)).max(1);
                options.extend(["--threads".into(), threads.to_string()]);
            } else if gpus.len() < parallel * ranks {
                let (need, there) = (parallel * ranks, gpus.len());
                let why =
                    format!("--parallel {parallel} with {ranks} ranks each needs {need} GPUs, and there are {there}");
                return Err(Error::input(why));
            } else {
                for (slot, own) in slots.iter_mut().zip(gpus.chunks(ranks)) {
                    slot.push(("CUDA_VISIBLE_DEVICES".to_owned(), own.join(",")));
                }
            }
        }
        let (command, folder) = (command, folder.to_owned());
        Ok(Start { command, folder, config_file, options, slots, all_or_none: false })
    }
}

/// Returns the names of the visible GPUs, as in `CUDA_VISIBLE_DEVICES`.
fn devices(visible: usize) -> Vec<String> {
    let set = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|set| !set.is_empty());
    let named = set.map(|set| set.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>());
    let mut names = named.unwrap_or_else(|| (0..visible).map(|index| index.to_string()).collect());
    names.truncate(visible);
    names
}

/// Returns the error for runs that failed or did not run.
///
/// # Errors
/// Exit 3 if runs are left after a stop on a signal; exit 1 if a run has failed.
pub fn conclude(start: &Start, ended: &[(String, Option<Outcome>)]) -> Result<()> {
    let Start { folder, all_or_none, .. } = start;
    let all = ended.len();
    let left = ended.iter().filter(|(_, outcome)| outcome.is_none()).count();
    let failed = |(name, outcome): &(String, Option<Outcome>)| {
        let code = outcome.as_ref()?.exit_code;
        (code != 0).then(|| format!("{name} (exit code {code})"))
    };
    let failed: Vec<String> = ended.iter().filter_map(failed).collect();
    if left > 0 && (failed.is_empty() || !all_or_none) {
        let why = format!("stopped with {left} of {all} runs left; the same command continues");
        return Err(Error::new(Kind::Stopped, why));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (n, logs) = (failed.len(), folder.display());
    Err(Error::other(format!(
        "{n} of {all} runs failed: {}; see their logs in {logs}, and {RESULTS}",
        failed.join(", ")
    )))
}

/// Describes the time and the end of a run, for the last columns of a table.
pub fn ending(outcome: Option<&Outcome>) -> [String; 2] {
    match outcome {
        None => ["".into(), "not finished".into()],
        Some(Outcome { exit_code: 0, seconds, .. }) => [format!("{seconds:.0} s"), "finished".into()],
        Some(Outcome { exit_code, seconds, .. }) => [format!("{seconds:.0} s"), format!("exit code {exit_code}")],
    }
}
