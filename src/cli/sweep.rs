//! `trainer sweep`

use super::runs::{RunsArgs, conclude, ending};
use crate::error::Result;
use crate::launch::runs::{self, Outcome, Run};
use crate::launch::sweep::Sweep;
use crate::observe::{self, table};
use clap::Args;
use std::cmp::Ordering;
use std::path::PathBuf;

/// `trainer sweep`
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// File of the sweep (TOML): the configuration, the parameters and their values.
    file: PathBuf,
    #[command(flatten)]
    runs: RunsArgs,
    /// Print the settings of all runs, and exit.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the sweep and prints its runs, the best first.
///
/// # Errors
/// As [`Sweep::load`], [`runs::run`] and [`conclude`].
pub fn run(args: &SweepArgs) -> Result<()> {
    let sweep = Sweep::load(&args.file)?;
    let start = args.runs.start("sweep", &sweep.output_dir, sweep.config.clone())?;
    if args.dry_run {
        let rows: Vec<Vec<String>> =
            sweep.runs.iter().map(|(_, own)| own.iter().map(|word| value(word)).collect()).collect();
        observe::print(&(table::words(&names(&sweep), &rows) + "\n"));
        return Ok(());
    }
    let planned: Vec<Run> = sweep.runs.iter().map(|(run, _)| run.clone()).collect();
    let ended = runs::run(&planned, &start, |run| sweep.runs[run].1.join(" "))?;
    observe::print(&(results(&sweep, &ended) + "\n"));
    conclude(&start, &ended)
}

fn names(sweep: &Sweep) -> Vec<&str> {
    sweep.parameters.iter().map(String::as_str).collect()
}

fn value(word: &str) -> String {
    word.split_once('=').map_or(word, |(_, value)| value).to_owned()
}

/// Returns the table of the runs: the best first, then those without a result.
fn results(sweep: &Sweep, ended: &[(String, Option<Outcome>)]) -> String {
    let train = &sweep.first().train;
    let metric = format!("eval_{}", train.metric_for_best_model);
    let of = |i: usize| ended[i].1.as_ref().filter(|outcome| outcome.exit_code == 0)?.metrics.get(&metric).copied();
    let mut order: Vec<usize> = (0..ended.len()).collect();
    order.sort_by(|&a, &b| match (of(a), of(b)) {
        (Some(a), Some(b)) if train.is_greater_better() => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()).then(Ordering::Equal),
    });
    let mut head = vec!["run"];
    head.extend(names(sweep));
    head.extend([metric.as_str(), "time", "end"]);
    let row = |&i: &usize| {
        let (name, outcome) = &ended[i];
        let mut row = vec![name.clone()];
        row.extend(sweep.runs[i].1.iter().map(|word| value(word)));
        row.push(of(i).map_or_else(|| "-".to_owned(), |value| format!("{value:.4}")));
        row.extend(ending(outcome.as_ref()));
        row
    };
    table::table(&head, &order.iter().map(row).collect::<Vec<_>>())
}
